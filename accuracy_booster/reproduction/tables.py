"""The paper's tables of accuracy and time, and our own, as declarations.

A row says what is trained and what the paper prints for it. Nothing here is a result of ours.
Errors are written as accuracies: an error of 28.6 % is a top-1 accuracy of 71.4 %.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from accuracy_booster.errors import unknown

TOP1, TIME, GATES = "top1", "time", "gates"  # what a table measures
WHICH = ("highest", "lowest", "random")  # weights whose channels are zeroed
MERGED = ("top1_merged", "top1_reestimated")  # accuracies before the training of merged gates


@dataclass(frozen=True)
class After:
    """A training that goes on from the trained network of another row, with the same seed.

    `merged`: its gates are first folded to constants, and the norms' statistics re-estimated. What
    is then trained is the plain network.
    """

    block: str
    merged: bool = False


@dataclass(frozen=True)
class Row:
    """A network with a block, and what is printed for it: top-1 and top-5 accuracy in %.

    In a table of times `printed` is seconds per batch.

    Attributes:
        settings: fields of `TrainConfig` in which the row differs from the others of its table.
        after: what its training goes on from; None if that begins anew.
        cell: which value of the run's result is the row's; by default the accuracy, or the time of
            its block. So rows can share a run.
        against: labels of the rows that it is compared with, in place of the table's references.
        column: the heading of the column of comparisons with this row; by default its label.
    """

    label: str
    model: str
    block: str = "none"
    printed: float | None = None
    printed_top5: float | None = None
    settings: Mapping[str, Any] = field(default_factory=dict)
    after: After | None = None
    cell: str = ""
    against: tuple[str, ...] = ()
    column: str = ""

    @property
    def heading(self) -> str:
        """Of the column of comparisons with this row."""
        return self.column or self.label


@dataclass(frozen=True)
class Table:
    """Rows that are compared, on one data set.

    Args:
        name: what `reproduce run` takes, such as "6".
        title: what is compared.
        data: the data set's name.
        rows: all networks and blocks.
        references: the blocks that the other rows of the same network are compared with.
        settings: fields of `TrainConfig` for every row, at every budget.
        budgets: own settings by budget; by default those of the data set (`budgets`).
        seeds: the number of seeds after which the verdict is final.
        measures: top1 (a training), time (seconds of inference), or gates (accuracies of a trained
            network with its gates changed).
        printed_for: where the printed numbers are another network's than the rows'.
        needs: what this package lacks to make the table, "" if nothing.
    """

    name: str
    title: str
    data: str
    rows: tuple[Row, ...]
    references: tuple[str, ...] = ("none", "se")
    settings: Mapping[str, Any] = field(default_factory=dict)
    budgets: Mapping[str, Mapping[str, Any]] | None = None
    seeds: int = 5
    measures: str = TOP1
    printed_for: str = ""
    needs: str = ""

    @property
    def models(self) -> list[str]:
        return list(dict.fromkeys(row.model for row in self.rows))

    @property
    def heading(self) -> str:
        if "." in self.name:
            return f"Section {self.name}"
        return f"Table {self.name}" if self.name.isdigit() else self.name.capitalize()

    def references_of(self, row: Row) -> list[Row]:
        """The rows of the same network that a row is compared with."""
        of_model = [other for other in self.rows if other.model == row.model and other != row]
        if row.against:
            return [other for label in row.against for other in of_model if other.label == label]
        found = []
        for block in self.references:
            if row.block == block and not row.settings:
                break  # a reference is compared with those before it alone
            found += [other for other in of_model if other.block == block and not other.settings]
        return found


def _blocks(model: str, *rows: tuple[Any, ...]) -> tuple[Row, ...]:
    """Rows of one network: (label, block, printed top-1, printed top-5)."""
    return tuple(Row(label, model, *more) for label, *more in rows)


def _errors(model: str, none: float, se: float, ab: float, ab_plus: float) -> tuple[Row, ...]:
    """A line of Table 5 or 6: errors in %."""
    named = {"none": none, "se": se, "ab": ab, "ab_plus": ab_plus}
    return tuple(Row(LABELS[b], model, b, round(100 - e, 2)) for b, e in named.items())


LABELS = {"none": "no block", "se": "SE", "ab": "AB", "ab_plus": "AB-Plus"}
# ResNet-56 on CIFAR-100, Tables 10 to 14
BASE, SE, AB, AB_PLUS = (
    ("no block", "none", 71.4),
    ("SE", "se", 72.7),
    ("AB", "ab", 73.1),
    ("AB-Plus", "ab_plus", 73.7),
)
TABLE_11 = (
    ("E: GAP", "design_e", 72.0),
    ("F: GAP + BN", "design_f", 71.9),
    ("G: depthwise weighted average", "design_g", 72.8),
    ("H: full weighted average", "design_h", 73.8),
)
TABLE_12 = (
    ("I: 3x3 conv", "design_i", 71.36),
    ("J: 3x3 depthwise conv", "design_j", 70.6),
    ("K: 7x7 conv", "design_k", 72.3),
    ("L: 7x7 depthwise conv", "design_l", 72.3),
)
TABLE_14 = (
    ("M: 7x7 depthwise conv + GAP", "design_m", 72.8),
    ("N: M + depthwise 1x1 + BN", "design_n", 73.0),
    ("O: M + full 1x1 + BN", "design_o", 73.5),
)
NO_BN = 0.3  # points that section 6.1 says AB loses without BN, on ResNet-56

NO_DETECTION = "object detection, which this version does not have"

# Table 16: % of the channels, top-1 without those of the highest and of the lowest weights
ZEROED = (
    (5, 76.13, 91.32),
    (10, 53.52, 84.50),
    (15, 40.01, 74.26),
    (20, 29.24, 63.11),
    (25, 18.22, 52.40),
)
WHOLE = "all channels"


def _zeroing(model: str) -> tuple[Row, ...]:
    """Table 16, with random channels beside those of the highest and the lowest weights."""
    rows = [Row(WHOLE, model, "ab", 94.66, cell="top1")]
    for percent, highest, lowest in ZEROED:
        control = f"random {percent} %"
        both = (WHOLE, control)
        for kind, printed in (("highest", highest), ("lowest", lowest)):
            label, cell = f"{kind} {percent} %", f"{kind} {percent}"
            rows.append(Row(label, model, "ab", printed, cell=cell, against=both))
        cell, column = f"random {percent}", "as many at random"
        rows.append(Row(control, model, "ab", cell=cell, against=(WHOLE,), column=column))
    rows.append(Row("weights frozen at their means", model, "ab", cell="frozen", against=(WHOLE,)))
    return tuple(rows)


PAPER = (
    Table(
        "2",
        "ResNet-50 on ImageNet",
        "imagenet",
        (
            *_blocks(
                "resnet50v1",
                ("no block", "none", 75.44, 92.50),
                ("SE", "se", 76.86, 93.30),
                ("CBAM", "cbam", 77.34, 93.69),
                ("AB", "ab", 77.6, 93.8),
                ("AB-Plus", "ab_plus", 77.9, 93.9),
            ),
            Row("ResNet-152", "resnet152v1", "none", 77.58, 93.66),
        ),
    ),
    Table(
        "3",
        "ResNet-50, seconds of inference per batch",
        "",
        _blocks(
            "resnet50v1",
            ("no block", "none", 0.152),
            ("SE", "se", 0.187),
            ("AB", "ab", 0.163),
            ("AB-Plus", "ab_plus", 0.192),
        ),
        measures=TIME,
    ),
    Table(
        "4",
        "WRN-18-2 on ImageNet",
        "imagenet",
        _blocks(
            "wrn18_2",
            ("no block", "none", 74.37, 91.80),
            ("SE", "se", 75.07, 92.35),
            ("CBAM", "cbam", 75.16, 92.37),
            ("AB", "ab", 75.3, 92.4),
            ("AB-Plus", "ab_plus", 75.4, 92.5),
        ),
    ),
    Table(
        "5",
        "CIFAR-10",
        "cifar10",
        (
            *_errors("resnet56", 6.5, 5.6, 5.34, 5.26),
            *_errors("resnet164", 5.5, 4.4, 4.0, 3.9),
            *_errors("wrn22_10", 4.4, 4.0, 3.7, 3.7),
        ),
    ),
    Table(
        "6",
        "CIFAR-100",
        "cifar100",
        (
            *_errors("resnet56", 28.6, 27.3, 26.9, 26.3),
            *_errors("resnet164", 24.3, 21.8, 21.5, 21.3),
            *_errors("wrn22_10", 20.6, 19.3, 19.0, 18.8),
        ),
    ),
    Table(
        "6.1",
        "AB without BN, CIFAR-100 (its last sentence)",
        "cifar100",
        tuple(
            row
            for model, ab, loss in (
                ("resnet56", 73.1, NO_BN),
                ("resnet164", 78.5, 0.2),
                ("wrn22_10", 81.0, 0.2),
            )
            for row in _blocks(
                model, ("AB", "ab", ab), ("AB without BN", "ab_nobn", round(ab - loss, 2))
            )
        ),
        references=("ab",),
    ),
    Table(
        "7",
        "ShuffleNet 1x, g = 3, on ImageNet",
        "imagenet",
        _blocks(
            "shufflenet_g3",
            ("no block", "none", 67.4, 87.5),
            ("SE", "se", 69.0, 88.9),
            ("AB", "ab", 69.5, 89.0),
            ("AB-Plus", "ab_plus", 69.7, 89.1),
        ),
    ),
    Table(
        "8",
        "ResNeXt-101 32x4d on ImageNet",
        "imagenet",
        _blocks(
            "resnext101_32x4d",
            ("no block", "none", 78.8, 94.4),
            ("SE", "se", 79.3, 94.99),
            ("GE-theta+", "ge_theta_plus", 79.5, 95.2),
            ("GE-theta+ with AB", "ge_theta_plus_ab", 79.8, 95.4),
        ),
    ),
    Table("9", "Faster R-CNN on COCO", "coco", (), needs=NO_DETECTION),
    Table(
        "10",
        "ResNet-56 on CIFAR-100: depth of the block",
        "cifar100",
        _blocks("resnet56", BASE, SE, AB, AB_PLUS),
    ),
    Table(
        "11",
        "ResNet-56 on CIFAR-100: how the average is taken",
        "cifar100",
        _blocks("resnet56", BASE, AB, AB_PLUS, *TABLE_11),
        references=("none", "ab"),
    ),
    Table(
        "12",
        "ResNet-56 on CIFAR-100: one weight per position",
        "cifar100",
        _blocks("resnet56", BASE, AB, *TABLE_12),
        references=("none", "ab"),
    ),
    Table(
        "13",
        "ResNet-50 on ImageNet: one weight per position",
        "imagenet",
        _blocks(
            "resnet50v1",
            ("no block", "none", 75.44),
            ("AB", "ab", 77.6),
            ("AB-Plus", "ab_plus", 77.9),
            ("3x3 depthwise conv + BN", "dw3_bn", 76.6),
            ("9x9 depthwise conv + BN", "dw9_bn", 77.2),
        ),
        references=("none", "ab"),
    ),
    Table(
        "14",
        "ResNet-56 on CIFAR-100: both kinds of weights",
        "cifar100",
        _blocks("resnet56", BASE, SE, AB, AB_PLUS, *TABLE_14),
    ),
    Table(
        "15",
        "ResNet-164 on CIFAR-100: number of groups",
        "cifar100",
        _blocks(
            "resnet164v1",
            ("no block", "none", 75.70),
            ("AB (G = C)", "ab", 78.50),
            ("G = 16", "ab_g16", 78.53),
            ("G = 8", "ab_g8", 78.57),
            ("G = 4", "ab_g4", 78.62),
            ("G = 2", "ab_g2", 78.66),
            ("AB-Plus (G = 1)", "ab_plus", 78.70),
        ),
        references=("none", "ab"),
    ),
    Table(
        "16",
        "ResNet-56 with AB on CIFAR-10: channels removed by their weights, and Figure 3",
        "cifar10",
        _zeroing("resnet56"),
        references=(),
        measures=GATES,
    ),
)

FINE_TUNED = {
    "weights": "resnet20_cifar10.th",
    "mean": (0.485, 0.456, 0.406),  # as these weights were trained
    "std": (0.229, 0.224, 0.225),
    "lr": 0.01,
    "gate_lr": 0.1,  # the gates start from zero, the other weights are trained
    "schedule": "cosine",
}
GATES_ONLY = {"freeze": "base"}
AB_TEXT = "gap | dense(groups=C) | bn{} | sigmoid"
F_TEXT = "gap | bn{} | sigmoid"
CONSTANTS = After("ab", merged=True)
ONE_MORE = {"epochs": 1, "lr": 0.01, "schedule": "cosine"}


def _more(label: str, block: str = "none", after: After = CONSTANTS, **about: Any) -> Row:
    """A row that trains the network of another row for one more epoch."""
    return Row(label, "resnet20", block, settings=ONE_MORE, after=after, **about)


PLAIN_MORE, GATED_MORE = "no block, one more epoch", "AB, one more epoch"

OWN = (
    Table(
        "small",
        "ResNet-20 on CIFAR-100: Tables 6 and 10 on a small network",
        "cifar100",
        _blocks("resnet20", BASE, SE, AB, AB_PLUS),
        printed_for="ResNet-56",
    ),
    Table(
        "finetune",
        "A public ResNet-20 for CIFAR-10, boosted and fine-tuned",
        "cifar10",
        (
            *_blocks(
                "resnet20",
                *[(label, block) for block, label in LABELS.items()],
                ("ECA", "eca"),
            ),
            *(
                Row(f"{label}, gates alone", "resnet20", block, settings=GATES_ONLY)
                for block, label in (*list(LABELS.items())[1:], ("eca", "ECA"))
            ),
        ),
        references=("none",),
        settings=FINE_TUNED,
        budgets={"paper": {"epochs": 3}, "short": {"epochs": 3}, "smoke": {"epochs": 1}},
    ),
    Table(
        "redundancy",
        "ResNet-20 on CIFAR-100: is the depthwise weight of AB redundant?",
        "cifar100",
        _blocks(
            "resnet20",
            BASE,
            AB,
            ("F: AB without its weight", "design_f", 71.9),
            ("E: neither weight nor BN", "design_e", 72.0),
            ("AB without BN", "ab_nobn", round(73.1 - NO_BN, 2)),
        ),
        references=("none", "ab"),
        printed_for="ResNet-56",
    ),
    Table(
        "factors",
        "ResNet-20 on CIFAR-100: what else differs between AB and F",
        "cifar100",
        (
            Row("AB", "resnet20", "ab"),
            Row("F", "resnet20", "design_f"),
            *(
                Row(f"{label}, eps {eps}", "resnet20", text.format(f"(eps={eps})"))
                for label, text in (("AB", AB_TEXT), ("F", F_TEXT))
                for eps in ("0.001", "0.1")
            ),
            *(
                Row(f"{label}, no decay", "resnet20", block, settings={"gate_weight_decay": 0.0})
                for label, block in (("AB", "ab"), ("F", "design_f"))
            ),
        ),
        references=("ab",),
    ),
    Table(
        "zeroing",
        "ResNet-20 with AB on CIFAR-100: Table 16 and Figure 3 on a small network",
        "cifar100",
        _zeroing("resnet20"),
        references=(),
        printed_for="ResNet-56 on CIFAR-10",
        measures=GATES,
    ),
    Table(
        "constants",
        "ResNet-20 on CIFAR-100: gates that are trained, and then folded to constants",
        "cifar100",
        (
            Row("no block", "resnet20", "none"),
            Row("AB", "resnet20", "ab", against=("no block",)),
            _more(PLAIN_MORE, "none", After("none")),
            _more(GATED_MORE, "ab", After("ab"), against=(PLAIN_MORE,)),
            _more("AB as constants", cell="top1_merged", against=("no block", "AB")),
            _more(
                "and its norms re-estimated", cell="top1_reestimated", against=("no block", "AB")
            ),
            _more("and trained for one epoch", against=(PLAIN_MORE, GATED_MORE)),
        ),
        references=(),
    ),
    Table(
        "designs",
        "ResNet-20 on CIFAR-100: the other blocks and designs",
        "cifar100",
        _blocks(
            "resnet20",
            BASE,
            AB,
            ("ECA", "eca"),
            ("CBAM", "cbam"),
            ("GE-theta", "ge_theta"),
            ("GE-theta+", "ge_theta_plus"),
            *TABLE_12,
            ("3x3 depthwise conv + BN", "dw3_bn"),
            ("9x9 depthwise conv + BN", "dw9_bn"),
            *TABLE_14,
            ("G = 16", "ab_g16"),
            ("G = 8", "ab_g8"),
            ("G = 4", "ab_g4"),
            ("G = 2", "ab_g2"),
            *TABLE_11[2:],
        ),
        references=("none", "ab"),
        printed_for="ResNet-56",
    ),
)
TABLES: dict[str, Table] = {table.name: table for table in (*OWN, *PAPER)}


def find_tables(names: Sequence[str]) -> list[Table]:
    """The tables of these names, each once, in their order.

    Raises:
        ValueError: for a name that is no table's, with the nearest.
    """
    found = {}
    for name in names:
        key = name.lower().removeprefix("table").strip(" -_")
        if key not in TABLES:
            raise unknown("table", name, TABLES, "see accuracy-booster reproduce tables")
        found[key] = TABLES[key]
    return list(found.values())

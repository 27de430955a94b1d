"""Our own tables: the paper's questions asked of a small network, and questions it leaves open."""

from __future__ import annotations

from typing import Any

from accuracy_booster.reproduction.paper_tables import (
    AB,
    AB_PLUS,
    BASE,
    LABELS,
    NO_BN,
    SE,
    TABLE_11,
    TABLE_12,
    TABLE_14,
    zeroing,
)
from accuracy_booster.reproduction.table import GATES, MERGED, After, Row, Table, blocks

FINE_TUNED = {
    "weights": "resnet20_cifar10.th",
    "mean": (0.485, 0.456, 0.406),  # the preprocessing that these weights were trained with
    "std": (0.229, 0.224, 0.225),
    "lr": 0.01,
    "gate_lr": 0.1,  # higher: the gates are new, and the other weights are trained already
    "schedule": "cosine",
}
GATES_ONLY = {"freeze": "base"}  # only the gates are trained
# AB and design F, with room for the options of their BN
AB_TEXT = "gap | dense(groups=C) | bn{} | sigmoid"
F_TEXT = "gap | bn{} | sigmoid"
CONSTANTS = After("ab", merged=True)  # from a network with AB whose gates were made constants
ONE_MORE = {"epochs": 1, "lr": 0.01, "schedule": "cosine"}


def _more(label: str, block: str = "none", after: After = CONSTANTS, **about: Any) -> Row:
    """A row that trains the network of another row for one more epoch.

    Args:
        after: that network.
        about: further fields of the row.
    """
    return Row(label, "resnet20", block, settings=ONE_MORE, after=after, **about)


UNGATED_MORE, GATED_MORE = "no block, one more epoch", "AB, one more epoch"

OWN = (
    Table(
        "small",
        "ResNet-20 on CIFAR-100: Tables 6 and 10 on a small network",
        "cifar100",
        blocks("resnet20", BASE, SE, AB, AB_PLUS),
        printed_for="ResNet-56",
    ),
    Table(
        "finetune",
        "A public ResNet-20 for CIFAR-10, boosted and fine-tuned",
        "cifar10",
        (
            *blocks(
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
        blocks(
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
        zeroing("resnet20"),
        references=(),
        printed_for="ResNet-56 on CIFAR-10",
        measures=GATES,
    ),
    Table(
        "constants",
        "ResNet-20 on CIFAR-100: gates that are trained, and then folded to constants",
        "cifar100",
        (
            Row(BASE[0], "resnet20", *BASE[1:]),
            Row(AB[0], "resnet20", *AB[1:], against=("no block",)),
            _more(UNGATED_MORE, "none", After("none")),
            _more(GATED_MORE, "ab", After("ab"), against=(UNGATED_MORE,)),
            _more("AB as constants", cell=MERGED[0], against=("no block", "AB")),
            _more("and norms re-estimated", cell=MERGED[1], against=("no block", "AB")),
            _more("and one epoch", against=(UNGATED_MORE, GATED_MORE)),
        ),
        references=(),
        printed_for="ResNet-56",
    ),
    Table(
        "designs",
        "ResNet-20 on CIFAR-100: the other blocks and designs",
        "cifar100",
        blocks(
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

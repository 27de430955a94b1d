"""What a table consists of: `Table`, its rows, and the network that a row may start from."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

# What the rows of a table show:
TOP1 = "top1"  # the top-1 accuracy of a training
AP = "ap"  # the average precision of a training of a detector
TIME = "time"  # the seconds of inference
GATES = "gates"  # the top-1 accuracies of one trained network with its gates changed
TRAINED = (TOP1, AP)  # of these, each run is a training

# Names of values in a result, beside "top1", "ap" and the blocks of a table of times:
AP50 = "ap50"  # a detector's average precision at an IoU of 0.5
WHICH = ("highest", "lowest", "random")  # channels of which weights are zeroed
# accuracies of a network whose gates were made constants, before it is trained further: as it is,
# and with re-estimated running statistics
MERGED = ("top1_merged", "top1_reestimated")


@dataclass(frozen=True)
class After:
    """Where a training starts: from the trained network of another row, with the same seed.

    Attributes:
        block: the block of that network.
        merged: first replace its gates by constants and re-estimate the running statistics of its
            norms. The network that is trained then has no gates.
        data: the data set that the other network was trained on, with the standard settings for
            that data set. By default the table's data set and settings.
    """

    block: str
    merged: bool = False
    data: str = ""


@dataclass(frozen=True)
class Row:
    """A network with a block, and what the paper prints for it.

    Attributes:
        label: the row's name in the table.
        model: the network.
        block: its block.
        printed: the paper's top-1 accuracy in %; in a table of times the seconds per batch, and in
            one of detectors the average precision in %.
        printed_top5: the paper's top-5 accuracy in %.
        settings: fields of the configuration in which the row differs from its table.
        after: the network that its training starts from; None for random weights.
        cell: which value of the run's result the row shows; by default the accuracy, or the time of
            its block. Rows can so share a run. Two rows are compared only in the same cell.
        against: labels of the rows that it is compared with, in place of the table's references.
        column: the heading of the comparisons with this row; by default its label.
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
        """The heading of the comparisons with this row."""
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
        settings: fields of the configuration for every row, at every budget.
        budgets: further settings by budget, over those of the data set (`budgets.STANDARD`).
        seeds: the number of seeds after which a verdict is final.
        measures: TOP1, AP, TIME or GATES.
        printed_for: the network of the printed numbers, where it is not the rows' own.
        note: sentences on what the paper leaves open and what was chosen.
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
    note: str = ""

    @property
    def models(self) -> list[str]:
        """The networks, each once."""
        return list(dict.fromkeys(row.model for row in self.rows))

    @property
    def heading(self) -> str:
        """ "Table 6", "Section 6.1", or the capitalised name of a table of our own."""
        if "." in self.name:
            return f"Section {self.name}"
        return f"Table {self.name}" if self.name.isdigit() else self.name.capitalize()

    def references_of(self, row: Row) -> list[Row]:
        """The rows of the same network that a row is compared with.

        A row that is itself a reference is compared only with the references before it.
        """
        of_model = [other for other in self.rows if other.model == row.model and other != row]
        if row.against:
            return [other for label in row.against for other in of_model if other.label == label]
        of_model = [other for other in of_model if other.cell == row.cell]
        found = []
        for block in self.references:
            if row.block == block and not row.settings:
                break
            found += [other for other in of_model if other.block == block and not other.settings]
        return found


def blocks(model: str, *rows: tuple[Any, ...]) -> tuple[Row, ...]:
    """Rows of one network, each given as (label, block, printed top-1, printed top-5)."""
    return tuple(Row(label, model, *more) for label, *more in rows)

"""What a table of the paper, or of our own, consists of."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

TOP1, TIME, GATES, AP = "top1", "time", "gates", "ap"  # what a table measures
TRAINED = (TOP1, AP)  # of these each run is a training
AP50 = "ap50"  # a cell of a table of detectors, beside AP
WHICH = ("highest", "lowest", "random")  # weights whose channels are zeroed
MERGED = ("top1_merged", "top1_reestimated")  # accuracies before the training of merged gates


@dataclass(frozen=True)
class After:
    """A training that goes on from the trained network of another row, with the same seed.

    Attributes:
        merged: its gates are first folded to constants, and the norms' statistics re-estimated.
            What is then trained is the plain network.
        data: the data set that the other network is trained on, with that one's own settings; by
            default the table's, with the table's.
    """

    block: str
    merged: bool = False
    data: str = ""


@dataclass(frozen=True)
class Row:
    """A network with a block, and what is printed for it: top-1 and top-5 accuracy in %.

    In a table of times `printed` is seconds per batch, and in one of detectors average precision.

    Attributes:
        settings: fields of the configuration in which the row differs from the others of its table.
        after: what its training goes on from; None if that begins anew.
        cell: which value of the run's result is the row's; by default the accuracy, or the time of
            its block. So rows can share a run. Blocks are compared in the same cell.
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
        settings: fields of the configuration for every row, at every budget.
        budgets: own settings by budget; by default those of the data set (`budgets`).
        seeds: the number of seeds after which the verdict is final.
        measures: top1 (a training), ap (a training of a detector), time (seconds of inference), or
            gates (accuracies of a trained network with its gates changed).
        printed_for: where the printed numbers are another network's than the rows'.
        note: sentences on what the paper leaves open, and what was chosen.
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
        of_model = [other for other in of_model if other.cell == row.cell]
        found = []
        for block in self.references:
            if row.block == block and not row.settings:
                break  # a reference is compared with those before it alone
            found += [other for other in of_model if other.block == block and not other.settings]
        return found


def blocks(model: str, *rows: tuple[Any, ...]) -> tuple[Row, ...]:
    """Rows of one network: (label, block, printed top-1, printed top-5)."""
    return tuple(Row(label, model, *more) for label, *more in rows)

"""Tiny tables of gates: trained gates made constants, and channels zeroed by their weights."""

from __future__ import annotations

from accuracy_booster.reproduction import Row, Spec, Table
from accuracy_booster.reproduction.paper_tables import zeroing
from accuracy_booster.reproduction.specs import spec_of
from accuracy_booster.reproduction.table import GATES, MERGED, After

MORE = {"epochs": 1, "lr": 0.01}
CONSTANTS = After("ab", merged=True)
MERGED_ROWS = (
    Row("ungated", "resnet8", "none"),
    Row("gated", "resnet8", "ab"),
    Row("ungated, more", "resnet8", "none", settings=MORE, after=After("none")),
    Row("merged", "resnet8", "none", settings=MORE, after=CONSTANTS, cell=MERGED[0]),
    Row("merged, more", "resnet8", settings=MORE, after=CONSTANTS, against=("ungated, more",)),
)
MERGING = Table("merging", "gates made constants", "cifar10", MERGED_ROWS, references=(), seeds=1)
ZEROING = Table("z", "zeroing", "cifar10", zeroing("resnet8"), references=(), measures=GATES)


def gates_spec(table: Table, label: str, budget: str = "smoke") -> Spec:
    """The run of the row with this label."""
    row = next(row for row in table.rows if row.label == label)
    return spec_of(table, row, budget, 0)

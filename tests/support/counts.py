"""Checks of the paper's counts: the words of their verdicts, and one check among many."""

from __future__ import annotations

from accuracy_booster.reproduction import Check, Counts

EQUAL, TRUNCATED, DIFFERENT = "equal", "truncated", "not reproducible"


def find(found: Counts, table: int, row: str, column: str) -> list[Check]:
    return [c for c in found.checks if (c.table, c.row, c.column) == (table, row, column)]

"""All tables by name: our own, then the paper's. They hold no result of ours."""

from __future__ import annotations

from collections.abc import Sequence

from accuracy_booster.errors import unknown
from accuracy_booster.reproduction.own_tables import OWN
from accuracy_booster.reproduction.paper_tables import PAPER
from accuracy_booster.reproduction.table import Table

TABLES: dict[str, Table] = {table.name: table for table in (*OWN, *PAPER)}


def find_tables(names: Sequence[str]) -> list[Table]:
    """The tables of these names ("6", "table 6", "small"), each once, in the given order.

    Raises:
        ValueError: for an unknown name; the message names the nearest.
    """
    found = {}
    for name in names:
        key = name.lower().removeprefix("table").strip(" -_")
        if key not in TABLES:
            raise unknown("table", name, TABLES, "see accuracy-booster reproduce tables")
        found[key] = TABLES[key]
    return list(found.values())

"""Every table, by its name. A row says what is trained and what the paper prints for it.

Nothing here is a result of ours.
"""

from __future__ import annotations

from collections.abc import Sequence

from accuracy_booster.errors import unknown
from accuracy_booster.reproduction.own_tables import OWN
from accuracy_booster.reproduction.paper_tables import PAPER
from accuracy_booster.reproduction.table import Table

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

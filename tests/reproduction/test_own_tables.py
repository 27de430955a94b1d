"""Our own tables: their printed numbers, and the runs that they share."""

from __future__ import annotations

from accuracy_booster.reproduction import TABLES, plan
from accuracy_booster.reproduction.own_tables import OWN
from accuracy_booster.reproduction.table import TOP1


def test_the_tables_begin_with_the_runs_of_small():
    small = {spec.hash for spec in plan([t for t in OWN if t.name == "small"], "short", 1)}
    for table in OWN:
        if table.name in ("zeroing", "constants"):
            assert plan([table], "short", 1)[0].hash in small


def test_own_tables_show_what_the_paper_prints_for_another_network():
    of_56 = {r.block: r.printed for n in ("10", "11", "12", "14") for r in TABLES[n].rows}
    of_56["ab_nobn"] = next(r.printed for r in TABLES["6.1"].rows if r.block == "ab_nobn")
    for table in (table for table in OWN if table.measures == TOP1):
        printed = {row.block: row.printed for row in table.rows if row.printed is not None}
        assert printed.items() <= of_56.items()
        assert bool(printed) == (table.printed_for == "ResNet-56")

"""All tables: shared runs, seeds that count, budgets that stand together."""

from __future__ import annotations

import pytest
from support.results import SMALL, put, put_small

from accuracy_booster.reproduction import TABLES, read_records
from accuracy_booster.reproduction.findings import compare
from accuracy_booster.reproduction.report import write_report
from accuracy_booster.reproduction.result_files import Records


def test_seeds_beyond_those_declared_do_not_count(tmp_path):
    """Rule 6: seeds are never added because of a verdict."""
    small = TABLES["small"]
    put_small(tmp_path)
    beyond = [put(tmp_path, small, label, small.seeds, 1.0) for label in ("no block", "AB")]
    found = compare(read_records(tmp_path))
    assert found.beyond == tuple(sorted(beyond))
    assert all(p.difference.seeds == [0, 1, 2, 3, 4] for p in found.tables[0].pairs)
    assert len(found.used) == 20


def test_further_seeds_count_where_all_rows_have_them(tmp_path):
    small = TABLES["small"]
    put_small(tmp_path)
    for label in SMALL:
        put(tmp_path, small, label, 5, 66.0)
    found = compare(read_records(tmp_path))
    assert found.beyond == ()
    assert all(p.difference.seeds == [0, 1, 2, 3, 4, 5] for p in found.tables[0].pairs)
    assert not any(p.verdict.so_far for p in found.tables[0].pairs)
    write_report(read_records(tmp_path), tmp_path / "reproduction.md")
    assert "| 6 (declared: 5) |" in (tmp_path / "reproduction.md").read_text()


def test_runs_that_tables_share_count_once(tmp_path):
    put_small(tmp_path)
    found = compare(read_records(tmp_path))
    assert [result.table.name for result in found.tables] == [
        "small",
        "redundancy",
        "factors",
        "constants",
        "designs",
    ]
    (shared,) = [
        [result.table.name for result, _ in places]
        for places in found.pairs().values()
        if places[0][1].row.label == "AB" and places[0][1].reference.label == "no block"
    ]
    assert shared == ["small", "redundancy", "constants", "designs"]
    assert found.intervals == 5
    assert sum(found.verdicts().values()) == 5 + found.not_run
    assert found.hours == pytest.approx(2.0)
    everything = compare(Records({}, {})).not_run
    assert found.not_run == everything - 5


def test_budgets_of_the_same_runs_stand_together(tmp_path):
    finetune = TABLES["finetune"]
    for label in ("no block", "AB"):
        put(tmp_path, finetune, label, 0, 91.0)
    (result,) = compare(read_records(tmp_path)).tables
    assert result.budgets == ("paper", "short")

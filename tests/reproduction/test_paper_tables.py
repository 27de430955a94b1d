"""The declared numbers are those of the paper's text, where that is at hand."""

from __future__ import annotations

import pytest
from support.paper import numbers_of, paper_text

from accuracy_booster.reproduction import TABLES
from accuracy_booster.reproduction.paper_tables import PAPER
from accuracy_booster.reproduction.table import AP, AP50


@pytest.mark.parametrize(
    ("name", "column", "is_error"),
    [
        *((table, 1, True) for table in (2, 4, 7, 8)),
        *((table, 1, False) for table in (10, 11, 12, 13, 14, 15)),
        (3, 2, False),
    ],
)
def test_printed_numbers_are_the_papers(shared, name, column, is_error):
    printed = [float(cells[column]) for cells in numbers_of(shared, name)]
    wanted = sorted(round(100 - p, 2) if is_error else p for p in printed)
    table = TABLES[str(name)]
    rows = list(table.rows)
    if name == 12:  # the paper prints its reference rows in Table 11
        rows = [row for row in rows if row.block not in ("none", "ab")]
    assert sorted(row.printed for row in rows) == wanted


@pytest.mark.parametrize("name", [2, 4, 7, 8])
def test_printed_top5_is_the_papers(shared, name):
    wanted = sorted(round(100 - float(cells[2]), 2) for cells in numbers_of(shared, name))
    assert sorted(row.printed_top5 for row in TABLES[str(name)].rows) == wanted


@pytest.mark.parametrize("name", [5, 6])
def test_printed_errors_of_cifar_are_the_papers(shared, name):
    models = ("resnet56", "resnet164", "wrn22_10")
    found = {(row.model, row.block): row.printed for row in TABLES[str(name)].rows}
    for model, cells in zip(models, numbers_of(shared, name), strict=True):
        for block, error in zip(("none", "se", "ab", "ab_plus"), cells[1:], strict=True):
            assert found.pop((model, block)) == round(100 - float(error), 2)
    assert not found


def test_the_loss_without_bn_is_the_papers(shared):
    assert (
        "we observe 0.3%, 0.2%, and 0.2% reduction in the accuracy reported in Table 6"
        in paper_text(shared)
    )
    rows = TABLES["6.1"].rows
    printed = {(row.model, row.block): row.printed for row in rows}
    of_6 = {row.model: row.printed for row in TABLES["6"].rows if row.block == "ab"}
    for model, loss in (("resnet56", 0.3), ("resnet164", 0.2), ("wrn22_10", 0.2)):
        assert printed[model, "ab"] == of_6[model]
        assert printed[model, "ab"] - printed[model, "ab_nobn"] == pytest.approx(loss)


def test_printed_precisions_of_detectors_are_the_papers(shared):
    printed = [float(cell) for cells in numbers_of(shared, 9) for cell in cells[1:]]
    assert printed == [row.printed for row in TABLES["9"].rows]
    assert [row.cell for row in TABLES["9"].rows] == [AP50, AP] * 3


@pytest.mark.parametrize("name", ["16", "zeroing"])
def test_zeroed_channels_are_the_papers(shared, name):
    rows = {row.label: row for row in TABLES[name].rows}
    printed = {label: row.printed for label, row in rows.items() if row.printed is not None}
    for percent, highest, lowest in numbers_of(shared, 16):
        if percent.startswith("0"):
            assert float(highest) == float(lowest) == printed.pop("all channels")
            continue
        assert printed.pop(f"highest {percent} %") == float(highest)
        assert printed.pop(f"lowest {percent} %") == float(lowest)
        control = [rows["all channels"], rows[f"random {percent} %"]]
        assert TABLES[name].references_of(rows[f"lowest {percent} %"]) == control
    assert not printed


def test_what_the_paper_compares_is_all_here():
    assert [t.name for t in PAPER] == [
        *("2", "3", "4", "5", "6", "6.1", "7", "8", "9", "10", "11", "12", "13", "14", "15", "16")
    ]

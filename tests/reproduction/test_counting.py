"""The paper's counts of parameters, FLOPS and depth beside ours.

What is expected was worked out by hand, and is written down here.
"""

from __future__ import annotations

import re
from dataclasses import replace

import pytest
import torch
from support.counts import DIFFERENT, EQUAL, TRUNCATED, find

import accuracy_booster as ab
from accuracy_booster.reproduction import counts
from accuracy_booster.reproduction.count_checks import verdict
from accuracy_booster.reproduction.printed_counts import COUNT_TABLES

MACS_2 = {
    "ResNet-50": ("3.858G", 3_857_973_248),
    "SE": ("3.860G", 3_860_488_192),
    "AB": ("3.858G", 3_857_988_352),
    "AB-Plus": ("3.878G", 3_878_092_800),
}
SUMS_152 = 3 * 256 * 56**2 + 8 * 512 * 28**2 + 36 * 1024 * 14**2 + 3 * 2048 * 7**2
# table, row, column, printed, ours, verdict, convention
NUMBERS: list[tuple[int, str, str, str, int, str, str]] = [
    (2, "ResNet-50", "Params", "25.56M", 25_557_032, EQUAL, "all parameters"),
    (2, "ResNet-152", "Params", "60.19M", 60_192_808, EQUAL, "all parameters"),
    (2, "ResNet-152", "FLOPS", "11.30G", 11_282_415_616 + SUMS_152, EQUAL, "mac+sum"),
    (2, "SE", "Params", "28.09M", 28_088_024, EQUAL, "all parameters"),
    (2, "CBAM", "Params", "28.09M", 28_089_624, EQUAL, "all parameters"),
    (2, "CBAM", "FLOPS", "3.864G", 3_864_362_102, EQUAL, "mac"),
    (2, "AB", "Params", "25.57M", 25_572_136, EQUAL, "block weights"),
    (2, "AB-Plus", "Params", "45.67M", 45_676_584, TRUNCATED, "block weights"),
    *(
        (table, row, "FLOPS", printed, ours, EQUAL, "mac")
        for table in (2, 3)
        for row, (printed, ours) in MACS_2.items()
    ),
    (4, "WRN-18-2", "Params", "45.62M", 45_618_216, EQUAL, "all parameters"),
    (4, "WRN-18-2", "FLOPS", "6.696G", 6_695_706_624, EQUAL, "mac"),
    (4, "SE", "Params", "45.97M", 45_970_456, EQUAL, "all parameters"),
    (4, "SE", "FLOPS", "6.696G", 6_696_054_784, EQUAL, "mac"),
    (4, "CBAM", "Params", "45.97M", 45_971_256, EQUAL, "all parameters"),
    (4, "CBAM", "FLOPS", "6.697G", 6_697_219_284, EQUAL, "mac"),
    (4, "AB", "Params", "45.62M", 45_622_056, EQUAL, "block weights"),
    (4, "AB", "FLOPS", "6.696G", 6_695_710_464, EQUAL, "mac"),
    (4, "AB-Plus", "Params", "48.40M", 48_403_496, EQUAL, "block weights"),
    (4, "AB-Plus", "FLOPS", "6.698G", 6_698_491_904, EQUAL, "mac"),
    (7, "ShuffleNet", "Params", "1.80M", 1_865_728, DIFFERENT, "all parameters"),
    (7, "ShuffleNet", "FLOPS", "140.0M", 140_459_472, DIFFERENT, "mac+norm"),
    (7, "SE", "Params", "2.40M", 2_410_416, DIFFERENT, "printed base + block weights"),
    (7, "SE", "FLOPS", "142.0M", 140_459_472 + 610_416, DIFFERENT, "mac+norm"),
    (7, "AB", "Params", "1.82M", 1_823_688, EQUAL, "printed base + all parameters of the blocks"),
    (7, "AB", "FLOPS", "140.5M", 140_467_368, EQUAL, "mac+norm"),
    (
        *(7, "AB-Plus", "Params", "6.70M", 6_700_848, EQUAL),
        "printed base + all parameters of the blocks",
    ),
    (7, "AB-Plus", "FLOPS", "145.3M", 145_344_528, EQUAL, "mac+norm"),
    (8, "ResNeXt-101", "Params", "44.18M", 44_177_704, EQUAL, "all parameters"),
    (8, "ResNeXt-101", "FLOPS", "7.99G", 7_991_221_248, EQUAL, "mac+norm"),
    (8, "SE", "Params", "48.96M", 48_955_416, EQUAL, "all parameters"),
    (8, "SE", "FLOPS", "8.00G", 7_995_964_416, EQUAL, "mac+norm"),
    (8, "GE-theta+", "Params", "57.92M", 57_919_256, EQUAL, "all parameters"),
    (8, "GE-theta+", "FLOPS", "8.02G", 8_004_895_744, DIFFERENT, "mac+norm"),
    (8, "GE-theta+ with AB", "Params", "53.23M", 53_239_080, TRUNCATED, "all parameters"),
    (8, "GE-theta+ with AB", "FLOPS", "8.00G", 8_000_185_088, EQUAL, "mac+norm"),
    (10, "ResNet-56", "Depth", "0", 0, EQUAL, "layers of a block"),
    (10, "SE", "Depth", "2", 2, EQUAL, "layers of a block"),
    (10, "AB", "Depth", "1", 1, EQUAL, "layers of a block"),
    (10, "AB-Plus", "Depth", "1", 1, EQUAL, "layers of a block"),
    (15, "ResNet-164", "Params", "1.734M", 1_734_452, EQUAL, "all parameters"),
]
# printed parameters, printed MACs, weights of the blocks, verdict on the MACs; sum C, sum C^2
C, C2 = 8_064, 1_548_288
TABLE_15 = {
    "AB": ("1.758M", "246.59M", C, TRUNCATED),
    "G = 16": ("1.847M", "246.68M", C2 // 16, TRUNCATED),
    "G = 8": ("1.944M", "246.78M", C2 // 8, EQUAL),
    "G = 4": ("2.137M", "246.97M", C2 // 4, TRUNCATED),
    "G = 2": ("2.524M", "247.36M", C2 // 2, EQUAL),
    "AB-Plus": ("3.298M", "248.14M", C2, EQUAL),
}


@pytest.mark.parametrize(("table", "row", "column", "paper", "ours", "result", "how"), NUMBERS)
def test_numbers_of_the_paper(everything, table, row, column, paper, ours, result, how):
    (check,) = find(everything, table, row, column)
    assert (check.paper, check.ours) == (paper, f"{ours:,}")
    assert (check.verdict, check.convention) == (result, how)
    assert bool(check.note) == (result == DIFFERENT)


@pytest.mark.parametrize("row", TABLE_15)
def test_table_15_is_the_printed_base_and_the_blocks(everything, row):
    params, flops, weights, result = TABLE_15[row]
    (check,) = find(everything, 15, row, "Params")
    assert (check.paper, check.verdict) == (params, EQUAL)
    assert check.ours == f"{1_734_000 + weights + 2 * C:,}"
    (base,) = find(everything, 15, "ResNet-164", "FLOPS")
    base_macs = int(base.ours.replace(",", ""))
    assert base_macs == pytest.approx(246.588e6, abs=0.001e6)
    assert (base.paper, base.verdict, base.convention) == ("246.58M", TRUNCATED, "mac+bias")
    (check,) = find(everything, 15, row, "FLOPS")
    assert (check.paper, check.verdict) == (flops, result)
    assert check.ours == f"{base_macs + weights:,}"


def test_every_printed_number_is_checked_and_counted_in_the_summary(everything):
    printed = sum(
        bool(text)
        for t in COUNT_TABLES.values()
        for r in t.rows
        for text in (r.params, r.flops, r.depth)
    )
    verdicts = [check.verdict for check in everything.checks]
    assert len([check for check in everything.checks if check.table != 1]) == printed
    assert printed == len(NUMBERS) + 2 * len(TABLE_15) + 1
    summary = everything.summary()
    assert summary == {v: verdicts.count(v) for v in summary}
    assert sum(summary.values()) == len(verdicts)
    assert [check.table for check in everything.checks] == sorted(
        c.table for c in everything.checks
    )
    assert f"{summary[DIFFERENT]} not reproducible" in everything.summary_text()
    assert f"{summary['fails']} fail" in everything.summary_text()
    assert everything.to_dict()["summary"] == summary


def test_a_note_names_the_convention_that_would_give_a_number(everything):
    (check,) = find(everything, 8, "GE-theta+", "FLOPS")
    name = re.match(r"(mac[+\w]*) gives it", check.note)[1]
    with torch.device("meta"):
        size = (3, 224, 224)
        model = ab.create_model("resnext101_32x4d", block="ge_theta_plus", input_size=size)
        assert verdict("8.02G", ab.complexity(model, size, convention=name).macs) != DIFFERENT


def test_verdicts_come_from_the_network(monkeypatch):
    """A ResNet-50 with its strides in the 3x3 convolutions has 4.089G."""
    rows = tuple(
        replace(row, model="resnet50") for row in COUNT_TABLES[2].rows if row.block == "none"
    )
    monkeypatch.setitem(COUNT_TABLES, 2, replace(COUNT_TABLES[2], rows=rows))
    found = counts([2])
    (params,), (flops,) = (find(found, 2, "ResNet-50", column) for column in ("Params", "FLOPS"))
    assert (params.verdict, flops.verdict) == (EQUAL, DIFFERENT)
    assert flops.ours.startswith("4,089,")
    assert flops.note == "no convention gives it"


def test_verdicts_come_from_what_is_printed(monkeypatch):
    base = replace(COUNT_TABLES[10].rows[1], depth="1")
    monkeypatch.setitem(COUNT_TABLES, 10, replace(COUNT_TABLES[10], rows=(base,)))
    assert [check.verdict for check in counts([10]).checks] == [DIFFERENT]


def test_tables_are_chosen_once_each_and_in_order():
    assert {check.table for check in counts([4]).checks} == {4}
    assert [check.table for check in counts([10, 3, 10]).checks] == [3] * 4 + [10] * 4


@pytest.mark.parametrize("tables", [[9], [4, 5], [0]])
def test_a_table_without_counts_is_refused(tables):
    with pytest.raises(ValueError, match=f"table {tables[-1]} prints no counts") as caught:
        counts(tables)
    assert "\n" not in str(caught.value)

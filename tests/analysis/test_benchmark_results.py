"""The rows of a benchmark: ratios within rounds, medians, quartiles."""

import pytest

from accuracy_booster.analysis.benchmark_results import (
    Bench,
    Case,
    Measured,
    Ratio,
    Variant,
    timings,
)
from accuracy_booster.analysis.machine import Machine
from accuracy_booster.fastpath.frozen import Frozen

FOUND = {
    Variant("naive", "none"): Measured([1.0, 10.0, 2.0], 100),
    Variant("naive", "ab"): Measured([2.0, 30.0, 8.0], 150),
    Variant("ours", "none"): Measured([0.5, 5.0, 1.0], 80, 2, 3, Frozen(1, 4, 0, 0, 2)),
    Variant("ours", "ab"): Measured([1.0, 5.0, 3.0], 80, 3, 3),
    Variant("rival", "timm/seresnet50"): Measured([1.5, 15.0, 3.0], 200),
}
MACHINE = Machine("a processor", 4, 1, "AVX2", "2.0", "3.5.1")


def rows_of(model="resnet50", mode="infer", found=FOUND):
    rows = timings(Case(mode, 1, False), model, found)
    return {(row.path, row.block): row for row in rows}


def test_every_row_has_the_ratio_to_both_opponents_with_quartiles():
    row = rows_of()["naive", "ab"]
    assert (row.milliseconds, row.rounds, row.memory_ratio) == (8, 3, 1.5)
    assert row.of_stock == Ratio(3, 2, 4)
    assert row.of_same == Ratio(6, 4, 8)
    ours = rows_of()["ours", "ab"]
    assert ours.of_stock == Ratio(1, 0.5, 1.5)
    assert ours.of_same == Ratio(2, 1, 3)
    assert (ours.fast, ours.places, ours.memory_ratio) == (3, 3, 1)
    rival = rows_of()["rival", "timm/seresnet50"]
    assert rival.of_stock.ratio == 1.5
    assert rival.of_same.ratio == 3
    assert rival.memory_ratio == 2
    assert rows_of()["naive", "none"].of_stock == Ratio(1, 1, 1)
    assert rows_of()["ours", "none"].of_same == Ratio(1, 1, 1)
    assert rows_of()["ours", "none"].of_stock.ratio == 0.5


@pytest.mark.parametrize("path", ["naive", "ours"])
def test_without_both_opponents_there_is_no_row(path):
    found = {variant: one for variant, one in FOUND.items() if variant != (path, "none")}
    with pytest.raises(KeyError):
        rows_of(found=found)


def test_the_papers_ratio_stands_beside_inference_of_its_network():
    assert rows_of()["naive", "ab"].paper == pytest.approx(0.163 / 0.152)
    assert rows_of(model="resnet8")["naive", "ab"].paper is None
    assert rows_of(mode="train")["naive", "ab"].paper is None


def test_tables_have_the_cells_of_each_row():
    rows = timings(Case("infer", 1, True), "resnet50", FOUND)
    bench = Bench("resnet50", (3, 8, 8), MACHINE, 3, rows)
    ((title, header, cells),) = bench.tables()
    assert title == "infer, batch 1, compiled"
    assert str(Case("infer", 1, False, "bf16")) == "infer, batch 1, eager, bf16"
    shown = {(row[0], row[1]): dict(zip(header, row, strict=True)) for row in cells}
    assert shown["ab", "naive"] == {
        **{"block": "ab", "path": "naive", "ms": "8.00", "of stock": "3.000 (2.000 to 4.000)"},
        **{"of same treatment": "6.000 (4.000 to 8.000)", "memory": "0.0 MB"},
        **{"memory ratio": "1.500", "fast path": "0 of 0", "frozen": "", "paper": "1.072"},
    }
    assert shown["none", "ours"]["frozen"] == "3 of 7"
    assert (
        "resnet50, images of 3x8x8, a processor, 1 threads on 4 cores, AVX2, torch 2.0, oneDNN "
        "3.5.1, 3 rounds"
    ) in bench.summary()

"""The rows of a benchmark: ratios within rounds, medians, quartiles."""

import pytest

from accuracy_booster.analysis.benchmark_results import Bench, Case, Measured, Variant, timings
from accuracy_booster.fastpath.compiled import Frozen

FOUND = {
    Variant("naive", "none"): Measured([1.0, 10.0, 2.0], 100),
    Variant("naive", "ab"): Measured([2.0, 30.0, 8.0], 150),
    Variant("ours", "none"): Measured([0.5, 5.0, 1.0], 80, 2, 3, Frozen(1, 4, 0)),
    Variant("ours", "ab"): Measured([1.0, 5.0, 3.0], 80, 3, 3),
}


def rows_of(model="resnet50", mode="infer", found=FOUND):
    rows = timings(Case(mode, 1, False), model, found)
    return {(row.path, row.block): row for row in rows}


def test_the_ratio_is_the_median_over_the_rounds():
    row = rows_of()["naive", "ab"]
    assert (row.milliseconds, row.ratio, row.ratio_naive, row.memory_ratio) == (8, 3, 3, 1.5)
    assert (row.low, row.high, row.rounds) == (2, 4, 3)
    ours = rows_of()["ours", "ab"]
    assert (ours.ratio, ours.ratio_naive, ours.memory_ratio) == (2, 1, 1)
    assert (ours.fast, ours.places) == (3, 3)


def test_without_the_naive_path_ratios_are_to_our_own():
    found = {variant: one for variant, one in FOUND.items() if variant.path == "ours"}
    assert rows_of(found=found)["ours", "ab"].ratio_naive == 2


def test_the_papers_ratio_stands_beside_inference_of_its_network():
    assert rows_of()["naive", "ab"].paper == pytest.approx(0.163 / 0.152)
    assert rows_of(model="resnet8")["naive", "ab"].paper is None
    assert rows_of(mode="train")["naive", "ab"].paper is None


def test_tables_have_the_cells_of_each_row():
    rows = timings(Case("infer", 1, True), "resnet50", FOUND)
    bench = Bench("resnet50", (3, 8, 8), "a processor", 1, 3, "2.0", rows)
    ((title, header, cells),) = bench.tables()
    assert title == "infer, batch 1, compiled"
    assert str(Case("infer", 1, False, "bf16")) == "infer, batch 1, eager, bf16"
    shown = {(row[0], row[1]): dict(zip(header, row, strict=True)) for row in cells}
    assert shown["ab", "naive"] == {
        **{"block": "ab", "path": "naive", "ms": "8.00", "time ratio": "3.000"},
        **{"quartiles": "2.000 to 4.000", "to plain": "3.000", "memory": "0.0 MB"},
        **{"memory ratio": "1.500", "fast path": "0 of 0", "frozen": "", "paper": "1.072"},
    }
    assert shown["none", "ours"]["frozen"] == "1 of 5"
    assert "resnet50, images of 3x8x8, a processor, 1 threads, torch 2.0, 3 rounds" in (
        bench.summary()
    )

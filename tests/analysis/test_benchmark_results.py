"""The rows of a benchmark: ratios within rounds, medians, quartiles."""

import io
from dataclasses import replace

import pytest
from rich.console import Console

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
from accuracy_booster.tables import Table

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


def result(case, model="resnet50", left_out=()):
    return Bench(model, (3, 8, 8), MACHINE, 3, timings(case, model, FOUND), list(left_out))


def shown(table):
    _, header, rows = table
    return {(row[0], row[1]): dict(zip(header, row, strict=True)) for row in rows}


def test_tables_have_the_cells_of_each_row():
    bench = result(Case("infer", 1, True))
    time, memory = bench.tables()
    assert (time[0], memory[0]) == (
        "infer, batch 1, compiled: time",
        "infer, batch 1, compiled: memory and fast path",
    )
    assert str(Case("infer", 1, False, "bf16")) == "infer, batch 1, eager, bf16"
    assert shown(memory)["ab", "naive"] == {
        **{"block": "ab", "path": "naive", "memory": "0.0 MB", "memory ratio": "1.500"},
        **{"fast path": "", "frozen": "", "paper": "1.072"},
    }
    assert shown(memory)["ab", "ours"]["fast path"] == "3 of 3"
    assert shown(memory)["none", "ours"]["frozen"] == "3 of 7"


def test_networks_with_the_treatment_show_both_ratios_and_the_others_one():
    time, _ = result(Case("infer", 1, True)).tables()
    ratios = {key: (row["of stock"], row["of same treatment"]) for key, row in shown(time).items()}
    assert ratios == {
        ("none", "naive"): ("1", ""),
        ("ab", "naive"): ("3.000 (2.000-4.000)", ""),
        ("none", "ours"): ("0.500 (0.500-0.500)", "1"),
        ("ab", "ours"): ("1.000 (0.500-1.500)", "2.000 (1.000-3.000)"),
        ("timm/seresnet50", "rival"): ("1.500 (1.500-1.500)", ""),
    }
    assert shown(time)["ab", "naive"]["ms"] == "8.00"


def test_columns_without_a_cell_are_left_out():
    without = {variant: replace(one, frozen=None) for variant, one in FOUND.items()}
    rows = timings(Case("infer", 1, False), "resnet8", without)
    bench = Bench("resnet8", (3, 8, 8), MACHINE, 3, rows)
    _, (_, header, _) = bench.tables()
    assert header == ["block", "path", "memory", "memory ratio", "fast path"]
    assert "frozen:" not in bench.summary()
    assert "paper:" not in bench.summary()


def test_tables_and_summary_fit_in_80_columns():
    found = {
        Variant("rival", "timm/ecaresnet50d") if variant.path == "rival" else variant: replace(
            one, milliseconds=[1234.5, 2345.6, 1999.9], memory=9 << 30, frozen=Frozen(53, 99, 0)
        )
        for variant, one in FOUND.items()
    }
    rows = timings(Case("infer", 256, True, "bf16"), "resnet50", found)
    bench = Bench("resnet50", (3, 224, 224), MACHINE, 3, rows, ["train, batch 1: because of it"])
    for title, header, cells in bench.tables():
        out = io.StringIO()
        Console(file=out, width=80).print(Table(header, cells).rich())
        lines = [line for line in out.getvalue().splitlines() if line.strip()]
        assert len(lines) == 2 + len(cells), f"a row of {title!r} takes several lines"
    assert all(len(line) < 80 for line in bench.summary().splitlines())


def test_the_summary_names_the_machine_and_what_was_left_out():
    bench = result(Case("infer", 1, True), left_out=["train, batch 1: no variance"])
    machine = "a processor, 1 thread on 4 cores, AVX2, torch 2.0, oneDNN 3.5.1"
    lines = bench.summary().splitlines()
    assert lines[:2] == ["resnet50, images of 3x8x8, 3 rounds in turns", machine]
    assert lines[-1] == "left out: train, batch 1: no variance"
    assert bench.to_dict()["left_out"] == ["train, batch 1: no variance"]
    words = " ".join(lines)
    assert "Other paths have no such treatment" in words
    assert "left out" not in result(Case("infer", 1, True)).summary()

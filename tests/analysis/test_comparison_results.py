"""The rows of a comparison."""

import json
from dataclasses import replace
from statistics import mean, stdev

import pytest
from scipy.stats import ttest_rel

import accuracy_booster as ab
from accuracy_booster.files import read_json


def test_rows(comparison):
    assert len(comparison.runs) == 6
    for row in comparison.rows:
        runs = [r for r in comparison.runs if r.config.block == row.block]
        assert sorted(r.config.seed for r in runs) == [0, 1]
        top1 = [r.test.top1 for r in runs]
        assert (row.top1_mean, row.top1_spread) == (mean(top1), stdev(top1))
        assert row.ms_per_image > 0
        for run in runs:
            assert ab.evaluate(run.output).top1 == run.test.top1
    none, boosted, grouped = comparison.rows
    # resnet8: one block each with 16, 32 and 64 channels; AB adds C weights and 2C of its norm
    assert boosted.parameters - none.parameters == 3 * (16 + 32 + 64)
    assert boosted.macs - none.macs == 16 + 32 + 64
    squares = (16**2 + 32**2 + 64**2) // 4
    assert grouped.parameters - none.parameters == squares + 2 * (16 + 32 + 64)
    assert grouped.macs - none.macs == squares
    path = comparison.report.parent / "results.json"
    assert read_json(path) == json.loads(json.dumps(comparison.to_dict()))
    assert json.loads(path.read_text())["sha256"]


def test_differences_are_within_seeds_with_the_interval_of_scipys_paired_t_test(comparison):
    assert comparison.reference == "none"
    top1 = {
        row.block: [r.test.top1 for r in comparison.runs if r.config.block == row.block]
        for row in comparison.rows
    }
    for row, told in zip(comparison.rows, comparison.to_dict()["rows"], strict=True):
        if row.block == "none":
            assert told["difference"] is None
            continue
        expected = ttest_rel(top1[row.block], top1["none"]).confidence_interval()
        assert told["difference"]["interval"] == pytest.approx([expected.low, expected.high])
        assert told["difference"]["mean"] == pytest.approx(row.top1_mean - mean(top1["none"]))
    cells = comparison.table().rows[1][2]
    low, high = comparison.difference("ab").interval
    assert cells.replace("\N{MINUS SIGN}", "-").endswith(f"[{low:+.2f}, {high:+.2f}]")
    first, images = comparison.caveats()
    assert "95 % interval (paired t)" in first
    assert images == "With 360 test images, one image is 0.28 points."


def test_one_seed_has_no_interval_and_no_spread(comparison):
    one = replace(
        comparison,
        runs=[r for r in comparison.runs if r.config.seed == 0],
        rows=[replace(r, top1=r.top1[:1], top1_spread=None) for r in comparison.rows[1:]],
    )
    assert one.reference == "ab"  # the first, where "none" is not there
    told = " ".join([*one.caveats(), *(cell for row in one.table().rows for cell in row)])
    assert "one seed of each, so no interval" in told
    assert f"--resume {one.report.parent}" in told
    assert "±" not in told
    assert "[" not in told
    assert one.to_dict()["rows"][1]["difference"]["interval"] is None


def test_nothing_is_said_where_all_is_well(comparison):
    alone = replace(comparison, rows=comparison.rows[:1])
    test = replace(comparison.runs[0].test, images=10_000)
    large = replace(alone, runs=[replace(run, test=test) for run in comparison.runs])
    assert large.caveats() == []
    assert alone.caveats() == ["With 360 test images, one image is 0.28 points."]

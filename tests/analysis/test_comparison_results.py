"""The rows of a comparison."""

import json
from statistics import mean, stdev

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

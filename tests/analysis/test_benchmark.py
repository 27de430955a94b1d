"""`ab.bench`: which variants it measures, and their memory; never a time."""

import contextlib
import json

import pytest
import torch

import accuracy_booster as ab
from accuracy_booster import cli
from accuracy_booster.analysis import benchmark_steps
from accuracy_booster.fastpath import compiled

BENCH = "bench resnet8 --blocks se --modes infer --batch-sizes 2 --compile on --rounds 3"
BENCH += " --input_size 3,16,16 --device cpu --json"
SMALL = {"input_size": (3, 8, 8), "rounds": 3, "device": "cpu"}


def test_every_variant_is_measured_and_counts_its_fast_places():
    result = ab.bench(
        "resnet8", blocks=["ab", "cbam"], batch_sizes=[1, 4], compile=[False], **SMALL
    )
    cases = [(r.mode, r.batch_size, r.path, r.block) for r in result.rows]
    blocks = ("none", "ab", "cbam")  # none is always there
    expected = [
        (mode, batch, path, block)
        for mode, batches in (("infer", (1, 4)), ("train", (4,)))
        for batch in batches
        for path in ("naive", "ours")
        for block in blocks
    ]
    assert cases == expected
    fast = {(r.mode, r.path, r.block): (r.fast, r.places) for r in result.rows}
    assert fast["infer", "naive", "ab"] == (0, 0)
    assert fast["infer", "ours", "ab"] == (3, 3)
    assert fast["infer", "ours", "cbam"] == (0, 3)
    assert fast["train", "ours", "ab"] == fast["train", "ours", "none"] == (3, 3)
    for row in result.rows:
        assert row.milliseconds > 0
        assert row.memory > 0
        if row.block == "none":
            assert (row.ratio, row.low, row.high, row.memory_ratio) == (1, 1, 1, 1)
    json.dumps(result.to_dict())
    assert [title for title, _, _ in result.tables()] == [
        "infer, batch 1, eager",
        "infer, batch 4, eager",
        "train, batch 4, eager",
    ]


def test_the_fast_path_of_a_block_needs_no_more_memory_than_none_in_training():
    """Eager: norm, gate, sum and ReLU keep z and the output and nothing else of that size."""
    given = {"modes": ["train"], "batch_sizes": [16], "compile": [False], "blocks": ["ab"]}
    result = ab.bench("resnet8", **given, rounds=1, input_size=(3, 24, 24), device="cpu")
    ratio = {(r.path, r.block): r.memory_ratio for r in result.rows}
    assert ratio["ours", "ab"] < 1.02
    assert ratio["naive", "ab"] > 1.05, "the measurement sees the maps that a plain gate keeps"


def test_bench_freezes_the_network_without_a_block_and_with_one_alike(capsys):
    torch._dynamo.reset()
    assert cli.main([*BENCH.split(), "--paths", "ours", "--json"]) == 0
    rows = json.loads(capsys.readouterr().out)["rows"]
    frozen = {r["block"]: r["frozen"] for r in rows}
    # 7 convolutions; between the branch's last one and the sum there is a gate
    assert frozen == {
        "none": {"packed": 7, "plain": 0, "sums": 3},
        "se": {"packed": 7, "plain": 0, "sums": 0},
    }


def test_bench_prints_no_ratio_to_an_unfrozen_network(capsys, monkeypatch):
    torch._dynamo.reset()
    monkeypatch.setattr(compiled, "_freezing", contextlib.nullcontext)
    assert cli.main(BENCH.split()) == 2
    out, err = capsys.readouterr()
    assert "ratio" not in out
    assert "not frozen: none of 7 convolutions" in err
    assert "--compile off" in err
    assert err.count("\n") == 1


def test_the_time_for_rounds_is_bounded():
    given = {"modes": ["infer"], "batch_sizes": [1], "compile": [False], "blocks": ["none"]}
    given |= {"input_size": (3, 8, 8), "device": "cpu"}
    assert {r.rounds for r in ab.bench("resnet8", rounds=50, seconds=1e-9, **given).rows} == {3}
    assert {r.rounds for r in ab.bench("resnet8", rounds=2, seconds=60, **given).rows} == {2}
    with pytest.raises(ValueError, match="seconds=0 must be > 0"):
        ab.bench("resnet8", seconds=0, **given)


def test_a_precision_that_is_not_there_is_refused(monkeypatch):
    given = {"modes": ["infer"], "batch_sizes": [2], "compile": [False], "blocks": ["none"]}
    given |= SMALL
    with pytest.raises(ValueError, match="precision='fp16' needs a GPU; on the CPU use fp32 or"):
        ab.bench("resnet8", precision="fp16", **given)
    with pytest.raises(ValueError, match=r"int8.*fp32"):
        ab.bench("resnet8", precision="int8", **given)
    monkeypatch.setattr(benchmark_steps, "bf16_works", lambda device: False)
    with pytest.raises(ValueError, match="precision='bf16' does not run on this cpu; use fp32"):
        ab.bench("resnet8", precision="bf16", **given)

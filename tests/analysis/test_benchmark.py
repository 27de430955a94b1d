"""`ab.bench`: which variants it measures, and their memory; never a time."""

import contextlib
import json

import pytest
import torch

import accuracy_booster as ab
from accuracy_booster import cli
from accuracy_booster.analysis import benchmark_steps
from accuracy_booster.analysis.benchmark_results import Ratio
from accuracy_booster.fastpath import opponent
from accuracy_booster.fastpath.frozen import Frozen

BENCH = "bench resnet8 --blocks se --modes infer --batch-sizes 2 --compile on --rounds 3"
BENCH += " --input_size 3,16,16 --device cpu --json"
SMALL = {"input_size": (3, 8, 8), "rounds": 3, "device": "cpu"}


def test_every_variant_is_measured_and_counts_its_fast_places():
    result = ab.bench(
        "resnet8", blocks=["ab", "cbam"], batch_sizes=[1, 4], compile=[False], **SMALL
    )
    cases = [(r.mode, r.batch_size, r.path, r.block) for r in result.rows]
    variants = [("naive", "none"), ("ours", "none")]  # both opponents are always there
    variants += [(path, block) for path in ("naive", "ours") for block in ("ab", "cbam")]
    expected = [
        (mode, batch, *variant)
        for mode, batches in (("infer", (1, 4)), ("train", (4,)))
        for batch in batches
        for variant in variants
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
        assert row.of_stock.low <= row.of_stock.ratio <= row.of_stock.high
        assert row.of_same.low <= row.of_same.ratio <= row.of_same.high
        if row.block == "none":
            own = row.of_stock if row.path == "naive" else row.of_same
            assert own == Ratio(1, 1, 1)
            assert row.memory_ratio == 1
    json.dumps(result.to_dict())
    assert [title for title, _, _ in result.tables()] == [
        f"{case}, eager: {what}"
        for case in ("infer, batch 1", "infer, batch 4", "train, batch 4")
        for what in ("time", "memory and fast path")
    ]
    (left_out,) = result.to_dict()["left_out"]
    assert left_out.startswith("train, batch 1: the batch norm of a gate cannot train on one value")
    assert "left out: train, batch 1: " in result.summary()


def test_the_fast_path_of_a_block_needs_no_more_memory_than_none_in_training():
    """Eager: norm, gate, sum and ReLU keep z and the output and nothing else of that size."""
    given = {"modes": ["train"], "batch_sizes": [16], "compile": [False], "blocks": ["ab"]}
    result = ab.bench("resnet8", **given, rounds=1, input_size=(3, 24, 24), device="cpu")
    assert result.left_out == []
    ratio = {(r.path, r.block): r.memory_ratio for r in result.rows}
    assert ratio["ours", "ab"] < 1.02
    assert ratio["naive", "ab"] > 1.05, "the measurement sees the maps that a plain gate keeps"


def test_both_opponents_and_the_rival_are_frozen_and_in_the_same_turns(capsys):
    torch._dynamo.reset()
    words = [*BENCH.split(), "--paths", "ours", "--against", "resnet8"]
    assert cli.main(words) == 0
    rows = json.loads(capsys.readouterr().out)["rows"]
    assert [(r["path"], r["block"]) for r in rows] == [
        *(("naive", "none"), ("ours", "none"), ("ours", "se"), ("rival", "resnet8"))
    ]
    stock, same, own, rival = (r["frozen"] for r in rows)
    # 7 convolutions, of which 3 end a branch; each applies a ReLU, these after their sum
    joined = {"packed": 7, "plain": 0, "sums": 3, "relus": 7, "ours": 0}
    assert stock == rival == joined
    for frozen in (same, own):
        assert frozen["packed"] + frozen["ours"] == 7
    for row in rows:
        assert row["rounds"] == 3
        assert set(row["of_stock"]) == set(row["of_same"]) == {"ratio", "low", "high"}


def test_bench_prints_no_ratio_to_an_unfrozen_network(capsys, monkeypatch):
    torch._dynamo.reset()
    monkeypatch.setattr(opponent, "freezing", contextlib.nullcontext)
    assert cli.main(BENCH.split()) == 2
    out, err = capsys.readouterr()
    assert "stock" not in out
    assert "0 of 7 convolutions are frozen" in err
    assert "--compile off" in err
    assert err.count("\n") == 1


@pytest.mark.parametrize("rival", [False, True])
def test_bench_prints_no_ratio_to_a_network_whose_sums_stay_apart(rival, capsys, monkeypatch):
    torch._dynamo.reset()
    apart = Frozen(packed=7, plain=0, sums=0, relus=4)
    honest = Frozen(packed=7, plain=0, sums=3, relus=7)
    answers = iter([honest, apart] if rival else [apart])
    monkeypatch.setattr(opponent, "profile", lambda *call: next(answers))
    words = [*BENCH.split(), *(["--against", "resnet8"] if rival else [])]
    assert cli.main([*words, "--paths", "ours"]) == 2
    out, err = capsys.readouterr()
    assert "stock" not in out
    assert "0 of 3 residual sums and 4 of 7 ReLUs" in err


def test_a_network_of_ones_own_is_copied():
    own = ab.create_model("resnet8")
    result = ab.bench(
        own, blocks=["ab"], modes=["infer"], batch_sizes=[2], compile=[False], **SMALL
    )
    assert (result.model, result.input_size) == (type(own).__name__, (3, 8, 8))
    assert {r.block: r.places for r in result.rows if r.path == "ours"} == {"none": 0, "ab": 3}
    assert not ab.surgery.attached(own)
    assert own.training


def test_the_machine_is_named():
    result = ab.bench("resnet8", modes=["infer"], blocks=[], compile=[False], **SMALL)
    machine = result.to_dict()["machine"]
    assert machine["torch"] == torch.__version__
    assert machine["threads"] == torch.get_num_threads()
    assert machine["cores"] >= 1
    assert machine["device"]
    assert machine["instructions"]
    if torch.backends.mkldnn.is_available():
        assert machine["onednn"].count(".") == 2


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

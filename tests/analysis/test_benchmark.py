"""What blocks cost: the variants, the ratios, the words and errors of `bench`; never a time."""

import contextlib
import json

import pytest
import torch

import accuracy_booster as ab
from accuracy_booster import cli
from accuracy_booster.analysis import benchmark
from accuracy_booster.analysis.memory import peak
from accuracy_booster.fastpath import compiled

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


def test_the_ratio_is_the_median_over_the_rounds():
    times = {("naive", "none"): [1.0, 10.0, 2.0], ("naive", "ab"): [2.0, 30.0, 8.0]}
    case = benchmark.Case("infer", 1, False)
    memory = dict.fromkeys(times, 100) | {("naive", "ab"): 150}
    row = benchmark._timing(case, "resnet50", ("naive", "ab"), times, memory, (0, 0))
    assert (row.milliseconds, row.ratio, row.memory_ratio) == (8, 3, 1.5)
    assert row.paper == pytest.approx(0.163 / 0.152)


def test_the_fast_path_of_a_block_needs_no_more_memory_than_none_in_training():
    """Eager: norm, gate, sum and ReLU keep z and the output and nothing else of that size."""
    given = {"modes": ["train"], "batch_sizes": [16], "compile": [False], "blocks": ["ab"]}
    result = ab.bench("resnet8", **given, rounds=1, input_size=(3, 24, 24), device="cpu")
    ratio = {(r.path, r.block): r.memory_ratio for r in result.rows}
    assert ratio["ours", "ab"] < 1.02
    assert ratio["naive", "ab"] > 1.05, "the measurement sees the maps that a plain gate keeps"


def test_peak_counts_what_is_alive_together():
    def step():
        a = torch.zeros(1000)
        b = torch.zeros(500)
        del a
        return b, torch.zeros(200)

    assert peak(step, torch.device("cpu")) == 6000


def test_bench_command(capsys, tmp_path):
    file = tmp_path / "bench.json"
    words = "bench resnet8 --blocks se --modes infer --batch-sizes 2 --compile off --rounds 2"
    words += f" --input_size 3,8,8 --device cpu --output {file} --json"
    assert cli.main(words.split()) == 0
    printed = json.loads(capsys.readouterr().out)
    assert json.loads(file.read_text()) == printed
    assert [(r["block"], r["path"]) for r in printed["rows"]] == [
        *(("none", "naive"), ("se", "naive"), ("none", "ours"), ("se", "ours"))
    ]
    assert printed["input_size"] == [3, 8, 8]


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ("resnet8 --modes train --batch_sizes 1", "training takes batches of 2"),
        ("resnet8 --modes inference", "unknown mode 'inference'; nearest: infer"),
        ("resnet8 --paths fast", "unknown path 'fast'"),
        ("resnet8 --blocks nonsense", "unknown block 'nonsense'"),
        ("resnet8 --rounds 0", "rounds: 0 must be a whole number >= 1"),
        ("resnet8 --compile maybe", "unknown value of --compile 'maybe'"),
        ("resnet8 --threads 0", "--threads 0 must be >= 1"),
        ("resnet8 --output /no/such/folder/x.json", "must be a file in a directory that is there"),
        ("", "name one network"),
    ],
)
def test_bad_words_are_one_line(words, said, capsys):
    assert cli.main(["bench", *words.split()]) == 2
    err = capsys.readouterr().err
    assert said in err
    assert err.count("\n") == 1


def test_plan_shows_the_fast_path(capsys):
    assert cli.main(["plan", "resnet8", "--block", "ab", "--fast-path", "--json"]) == 0
    fused, folded = json.loads(capsys.readouterr().out)["fast_path"]
    assert (fused["kind"], fused["taken"], folded["kind"], folded["taken"]) == (
        *("fused", 3),
        *("folded", 3),
    )
    assert cli.main(["plan", "resnet8", "--block", "cbam", "--fast-path"]) == 0
    out = capsys.readouterr().out
    assert "fused: 0 of 3 places take the fast path" in out
    assert "reads more than each channel's mean" in out


def test_training_is_fused_where_it_is_asked_for_and_measured_folded(tmp_path):
    given = {"block": "ab", "epochs": 1, "device": "cpu", "compile": "off", "image_size": 8}
    plain = ab.train("resnet8", **given, output=tmp_path / "plain")
    fused = ab.train("resnet8", **given, fuse="on", output=tmp_path / "fused")
    decided = [
        json.loads((tmp_path / n / "run.json").read_text())["decided"] for n in ("plain", "fused")
    ]
    assert decided == [{"compile": False, "fuse": False}, {"compile": False, "fuse": True}]
    assert fused.history[0]["train_loss"] == pytest.approx(plain.history[0]["train_loss"], rel=1e-3)
    # measured layer by layer, as it will be again, and folded
    assert ab.evaluate(tmp_path / "fused").loss == fused.test.loss
    assert ab.evaluate(tmp_path / "fused", fold=True).loss == pytest.approx(
        fused.test.loss, rel=1e-4
    )


def test_a_fused_run_that_was_interrupted_stays_fused(tmp_path, monkeypatch):
    from accuracy_booster.training import trainer

    given = {"block": "ab", "epochs": 2, "device": "cpu", "compile": "off", "fuse": "on"}
    whole = ab.train("resnet8", **given, image_size=8, output=tmp_path / "whole")
    step = trainer.Trainer.train_step
    seen = []

    def stopping(self, batch):
        if self.epoch == 1 and not seen:
            seen.append(self.step)
            raise KeyboardInterrupt
        return step(self, batch)

    monkeypatch.setattr(trainer.Trainer, "train_step", stopping)
    with pytest.raises(KeyboardInterrupt):
        ab.train("resnet8", **given, image_size=8, output=tmp_path / "cut")
    again = ab.train(resume=tmp_path / "cut")
    assert again.test == whole.test
    a, b = ((tmp_path / name / "model.safetensors").read_bytes() for name in ("whole", "cut"))
    assert a == b


BENCH = "bench resnet8 --blocks se --modes infer --batch-sizes 2 --compile on --rounds 3"
BENCH += " --input_size 3,16,16 --device cpu --json"


def test_bench_freezes_the_network_without_a_block_and_with_one_alike(capsys):
    torch._dynamo.reset()
    assert cli.main([*BENCH.split(), "--paths", "ours"]) == 0
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

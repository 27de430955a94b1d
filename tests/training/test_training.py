"""Presets, schedules, runs, and what is reported: on digits and on tiny made-up data."""

import csv
import json
import math
import re

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file
from torch import nn

import accuracy_booster as ab
from accuracy_booster import ops
from accuracy_booster.ops import precision
from accuracy_booster.training import classification, engine, trainer
from accuracy_booster.training import config as configs
from accuracy_booster.training.presets import resolve


@pytest.fixture
def folder(tmp_path):
    """3 classes, 5 + 3 images of 16x16 that differ in brightness."""
    rng = np.random.default_rng(0)
    for split, count in (("train", 5), ("test", 3)):
        for label, name in enumerate(("dark", "grey", "white")):
            place = tmp_path / "images" / split / name
            place.mkdir(parents=True)
            for i in range(count):
                pixels = rng.integers(0, 60, (16, 16, 3)) + 90 * label
                Image.fromarray(pixels.astype(np.uint8)).save(place / f"{i}.png")
    return tmp_path / "images"


def short(tmp_path, name="run", **options):
    """Arguments of a run of seconds."""
    given = {"epochs": 1, "batch_size": 8, "device": "cpu", "output": str(tmp_path / name)}
    return {**given, **options}


@pytest.mark.parametrize(
    ("model", "data", "expected"),
    [
        ("resnet56", "cifar100", ("cifar_resnet", 200, 128, 0.1, 1e-4, False, 0)),
        ("resnet110", "cifar10", ("cifar_resnet_deep", 200, 128, 0.1, 1e-4, False, 1)),
        ("resnet164v1", "cifar10", ("cifar_resnet_deep", 200, 128, 0.1, 1e-4, False, 1)),
        ("wrn22_10", "cifar100", ("cifar_wrn", 200, 128, 0.1, 5e-4, True, 0)),
        ("resnet20", "digits", ("digits", None, 64, 0.1, 1e-4, False, 0)),
    ],
)
def test_presets(model, data, expected):
    c = resolve(model, data=data)
    got = (c.preset, c.epochs, c.batch_size, c.lr, c.weight_decay, c.nesterov, c.warmup_epochs)
    assert [g for g, e in zip(got, expected, strict=True) if e is not None] == [
        e for e in expected if e is not None
    ]
    changed = resolve(model, data=data, epochs=7, lr=0.3)
    assert (changed.epochs, changed.lr, changed.preset) == (7, 0.3, c.preset)
    named = resolve(model, data=data, preset="cifar_wrn")
    assert named.weight_decay == 5e-4


def rates(**options):
    c = resolve(options.pop("model", "resnet56"), data="cifar100", **options)
    optimizer = engine.make_optimizer(nn.Linear(1, 1), c)
    found = []
    for epoch in range(c.epochs):  # the rule: a rate is a function of the epoch, without a state
        engine.set_rates(optimizer, engine.rate_factor(c, epoch))
        found.append(optimizer.param_groups[0]["lr"])
    return found


def steps(changes, epochs=200):
    """{first epoch (from 0): rate} -> the rate of each epoch."""
    out = []
    for epoch in range(epochs):
        out.append(changes[max(e for e in changes if e <= epoch)])
    return out


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({}, steps({0: 0.1, 100: 0.01, 150: 0.001})),
        ({"model": "resnet110"}, steps({0: 0.01, 1: 0.1, 100: 0.01, 150: 0.001})),
        ({"model": "wrn22_10"}, steps({0: 0.1, 60: 0.02, 120: 0.004, 160: 0.0008})),
        ({"epochs": 160}, steps({0: 0.1, 80: 0.01, 120: 0.001}, 160)),
        ({"epochs": 5}, [0.1, 0.1, 0.1, 0.01, 0.001]),
        ({"epochs": 4, "warmup_epochs": 9}, [0.01] * 4),
        (
            {"epochs": 8, "schedule": "cosine"},
            [0.05 * (1 + math.cos(math.pi * e / 8)) for e in range(8)],
        ),
    ],
)
def test_schedule(options, expected):
    assert rates(**options) == pytest.approx(expected)


def test_config_round_trip_and_refusals():
    c = resolve("wrn16_4", data="cifar10", image_size=40, mean=[0.1, 0.2, 0.3])
    assert configs.TrainConfig.from_yaml(c.to_yaml()) == c
    for wrong in (
        {"epochs": 0},
        {"batch_size": 1},
        {"lr": 0.0},
        {"validation": 1.0},
        {"precision": "fp8"},
        {"schedule": "linear"},
        {"milestones": (0.5, 1.5)},
        {"nesterov": True, "momentum": 0.0},
    ):
        with pytest.raises(ValueError, match=next(iter(wrong))):
            resolve("resnet20", **wrong)
    with pytest.raises(ValueError, match="nearest: epochs"):
        ab.train("resnet20", epoch=3)
    with pytest.raises(ValueError, match="nearest: cifar_wrn"):
        ab.train("resnet20", preset="cifar_wnr")


def test_run_directory_and_reported_accuracy(folder, tmp_path):
    result = ab.train("resnet8", block="ab", data=str(folder), **short(tmp_path, epochs=3))
    run = result.output
    assert {p.name for p in run.iterdir()} >= {
        *("config.yaml", "run.json", "metrics.csv", "model.safetensors"),
    }
    with (run / "metrics.csv").open() as f:
        rows = list(csv.DictReader(f))
    assert [float(r["epoch"]) for r in rows] == [1, 2, 3]
    assert float(rows[-1]["test_top1"]) == pytest.approx(result.test.top1, rel=1e-4)
    info = json.loads((run / "run.json").read_text())
    assert info["classes"] == ["dark", "grey", "white"]
    assert info["test"]["top1"] == result.test.top1
    assert result.test.images == 9
    assert any(p.name.startswith("events") for p in (run / "tensorboard").iterdir())
    # the weights on disk are those that were measured, and a network without us can hold them
    assert ab.evaluate(run).top1 == result.test.top1
    model = ab.create_model("resnet8", block="ab", num_classes=3)
    model.load_state_dict(load_file(run / "model.safetensors"))
    # `train --config RUN/config.yaml` repeats it to the bit
    again = configs.TrainConfig.from_yaml((run / "config.yaml").read_text())
    twin = ab.train(again, output=str(tmp_path / "twin"))
    first, second = (load_file(r / "model.safetensors") for r in (run, twin.output))
    assert first.keys() == second.keys()
    assert all(torch.equal(first[k], second[k]) for k in first)
    other = ab.train(again, output=str(tmp_path / "other"), seed=1)
    third = load_file(other.output / "model.safetensors")
    assert not torch.equal(first["conv1.weight"], third["conv1.weight"])


def test_the_last_epoch_is_reported_not_the_best(folder, tmp_path, monkeypatch):
    reported = iter([90.0, 50.0, 70.0])
    real = classification.measure
    monkeypatch.setattr(
        classification,
        "measure",
        lambda *a: type(real(*a))(top1=next(reported), top5=100.0, loss=1.0, images=9),
    )
    result = ab.train("resnet8", data=str(folder), **short(tmp_path, epochs=3))
    assert [r["test_top1"] for r in result.history] == [90.0, 50.0, 70.0]
    assert result.test.top1 == 70.0


def test_validation_split_keeps_the_test_set_out(folder, tmp_path, monkeypatch):
    measured = []
    real = trainer.Trainer.measure

    def spy(self, split):
        measured.append(split)
        return real(self, split)

    monkeypatch.setattr(trainer.Trainer, "measure", spy)
    options = short(tmp_path, epochs=2, validation=0.4)
    result = ab.train("resnet8", data=str(folder), **options)
    assert measured == ["validation", "validation", "test"]
    assert "validation_top1" in result.history[0]
    assert "test_top1" not in result.history[0]
    assert result.test.images == 9


def test_same_start_and_same_images_for_every_block(folder, tmp_path):
    first = {}
    for block in ("none", "ab_plus"):
        config = resolve("resnet8", block=block, data=str(folder), **short(tmp_path))
        data = engine.open_data(config)
        one = trainer.Trainer(classification.Classification(engine.fill_in(config, data), data))
        weights = one.network.conv1.weight.detach().clone()
        images, labels = next(iter(one.loaders["train"]))
        first[block] = (weights, images, labels)
    for a, b in zip(first["none"], first["ab_plus"], strict=True):
        assert torch.equal(a, b)


def test_evaluate_counts_every_image_once(folder):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Flatten(), nn.Linear(3 * 16 * 16, 7))
    mean, std = (0.2, 0.3, 0.4), (0.5, 0.6, 0.7)
    names = ["dark", "grey", "white", "a", "b", "c", "d"]
    hits1 = hits5 = 0
    for label, name in enumerate(("dark", "grey", "white")):
        for file in sorted((folder / "test" / name).iterdir()):
            x = torch.tensor(np.array(Image.open(file))).permute(2, 0, 1).double() / 255
            x = (x - torch.tensor(mean)[:, None, None]) / torch.tensor(std)[:, None, None]
            order = model.double()(x[None])[0].argsort(descending=True).tolist()
            hits1 += order[0] == label
            hits5 += label in order[:5]
    model.float()
    for batch in (2, 4, 256):  # 9 images: ragged last batches
        options = {"mean": mean, "std": std, "eval_batch_size": batch, "classes": names}
        got = ab.evaluate(model, str(folder), **options)
        assert (got.top1, got.top5) == (
            pytest.approx(100 * hits1 / 9),
            pytest.approx(100 * hits5 / 9),
        )
        assert got.images == 9
    assert 0 < hits5 < 9, "the case tells nothing: every image is a hit, or none"
    assert model.training, "evaluate left the module in another mode"


def test_evaluate_refusals(folder, tmp_path):
    result = ab.train("resnet8", data=str(folder), **short(tmp_path))
    with pytest.raises(ValueError, match="3"):
        ab.evaluate(result.output, "digits")
    with pytest.raises(ValueError, match="holds no run"):
        ab.evaluate(tmp_path)
    with pytest.raises(ValueError, match="nearest: eval_batch_size"):
        ab.evaluate(result.output, batch_size=3)
    with pytest.raises(ValueError, match="more than the head's 2"):
        ab.evaluate(nn.Sequential(nn.Flatten(), nn.Linear(768, 2)), str(folder))
    weights = result.output / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-100])
    with pytest.raises(ValueError, match="is damaged"):
        ab.evaluate(result.output)
    weights.unlink()
    with pytest.raises(
        ValueError, match=f"has not ended.*--resume {re.escape(str(result.output))}"
    ):
        ab.evaluate(result.output)


def test_train_refusals(folder, tmp_path):
    options = short(tmp_path)
    with pytest.raises(ValueError, match="more than num_classes=2"):
        ab.train("resnet8", data=str(folder), num_classes=2, **options)
    with pytest.raises(ValueError, match=r"groups=5 must divide channels=16; try 4 or 8"):
        ab.train("resnet8", data=str(folder), block="ab_g5", **options)
    assert not (tmp_path / "run").exists(), "a refused run left something behind"
    ab.train("resnet8", data=str(folder), **options)
    with pytest.raises(ValueError, match="already holds a run; choose another --output, or --over"):
        ab.train("resnet8", data=str(folder), **options)
    weights = tmp_path / "run" / "model.safetensors"
    weights.rename(tmp_path / "weights")  # now it has not ended
    with pytest.raises(ValueError, match=r"has not ended.*--overwrite; go on .*--resume"):
        ab.train("resnet8", data=str(folder), **options)
    (tmp_path / "weights").rename(weights)
    ab.train("resnet8", data=str(folder), overwrite=True, **options)
    with pytest.raises(ValueError, match="needs a GPU"):
        ab.train("resnet8", data=str(folder), precision="fp16", **short(tmp_path, "half"))
    if not torch.cuda.is_available():
        with pytest.raises(ValueError, match="no CUDA device"):
            ab.train("resnet8", data=str(folder), **short(tmp_path, "cuda", device="cuda"))


def test_a_ragged_last_image_does_not_break_training(folder, tmp_path):
    """15 images in batches of 7: the image left over alone would give a gate's norm no spread."""
    result = ab.train("resnet8", block="ab", data=str(folder), **short(tmp_path, batch_size=7))
    assert result.history[0]["train_loss"] > 0


def test_bf16_is_probed_in_a_child_process(folder, tmp_path, monkeypatch):
    """A CPU that ends the child with SIGILL is told in a line, and the parent lives."""
    die = "import os, signal; os.kill(os.getpid(), signal.SIGILL)"
    for code, works in ((die, False), ("pass", True)):
        monkeypatch.setattr(precision, "_BF16_PROBE", code)
        ops.bf16_works.cache_clear()
        assert ops.bf16_works("cpu") is works
        if not works:
            with pytest.raises(ValueError, match=r"bf16.*use precision='fp32'"):
                ab.train("resnet8", data=str(folder), precision="bf16", **short(tmp_path))
    ops.bf16_works.cache_clear()


def test_bf16_trains_where_it_works(folder, tmp_path):
    ops.bf16_works.cache_clear()
    if not ops.bf16_works("cpu"):
        pytest.skip("this CPU refuses bfloat16 (probed in a child process)")
    result = ab.train("resnet8", data=str(folder), precision="bf16", **short(tmp_path))
    assert math.isfinite(result.history[0]["train_loss"])


def test_digits_are_learned(tmp_path):
    """Not a stub: a small network with AB learns real images in a few epochs."""
    result = ab.train("resnet8", block="ab", **short(tmp_path, epochs=6, batch_size=64))
    assert result.test.top1 > 85
    assert result.history[0]["train_loss"] > 1.5 * result.history[-1]["train_loss"]

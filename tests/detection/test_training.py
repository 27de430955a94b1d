"""Detection on the one trainer: runs, resuming, processes, freezing, starts, bad input."""

# N batch, C channels, H W space

from __future__ import annotations

import json
import os
import signal
import warnings
from pathlib import Path
from typing import Any

import pytest
import torch
import torchvision
import yaml
from safetensors.torch import load_file
from support.detectors import PYRAMID, make_coco, options
from support.interruptions import (
    announce,
    in_the_loader,
    in_the_step,
)
from support.processes import cannot_fork, in_child, ranks, said, until, wait
from support.trainings import (
    assert_equal_ends,
    make_data,
)

import accuracy_booster as ab
from accuracy_booster import detection
from accuracy_booster.detection.config import DetectConfig
from accuracy_booster.errors import Diverged, TrainingInterrupted, TrainingStopped
from accuracy_booster.models import create_model
from accuracy_booster.training import checkpoint, list_runs, run_to_end, trainer
from accuracy_booster.training.run_config import RunConfig
from accuracy_booster.training.run_directory import Run

pytestmark = [
    pytest.mark.forks,
    cannot_fork,
    pytest.mark.filterwarnings("error:.*weight (is )?zero", "ignore:the batch norm of the gate"),
]
# everything that is random: sizes are drawn inside the detector
RANDOM = {"augment": "ssd", "min_size": (32, 40), "ema": 0.9, "checkpoint_minutes": 0}


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> Path:
    return make_coco(tmp_path_factory.mktemp("data") / "coco")


@pytest.fixture(scope="module")
def trained(data, tmp_path_factory) -> Any:
    """A run in this process, and its result."""
    return detection.train(**options(data, tmp_path_factory.mktemp("trained") / "run"))


@pytest.fixture(scope="module")
def classified(tmp_path_factory) -> Path:
    """A run of classification, boosted, of four stages."""
    folder = tmp_path_factory.mktemp("classified")
    images = make_data(folder / "images", train=4, test=2, size=(20, 20))
    given = {"block": "ab", "data": str(images), "image_size": 32, "epochs": 1, "batch_size": 6}
    more = {"preset": "cifar_resnet", "compile": "off", "device": "cpu"}
    ab.train("timm/test_resnet", output=str(folder / "run"), **given, **more)
    return folder / "run"


class Captured(Exception):
    """Raised in place of the first step."""


@pytest.fixture
def start(monkeypatch, tmp_path):
    """`start(data, **options)`: the trainer as it stands before the first step."""

    def fit(trainer, *given, **more):
        raise Captured(trainer)

    def begin(data, **more):
        number = len(list(tmp_path.glob("start*")))
        with monkeypatch.context() as patch:
            patch.setattr(run_to_end, "fit", fit)
            with pytest.raises(Captured) as caught:
                detection.train(**options(data, tmp_path / f"start{number}", **more))
        return caught.value.args[0]

    return begin


# a run's directory


def test_a_run_has_what_a_run_of_classification_has(data, trained):
    run = trained.output
    info = json.loads((run / "run.json").read_text())
    assert info["task"] == "detection"
    assert info["classes"] == ["red", "green", "blue"]
    assert info["category_ids"] == [3, 7, 20]
    assert info["test"] == trained.test.to_dict()
    assert [row["epoch"] for row in Run(run).history()] == [1, 2]
    columns = set(Run(run).history()[0])
    losses = ("classifier", "box_reg", "objectness", "rpn_box_reg")
    assert columns > {"train_loss", *(f"train_loss_{name}" for name in losses)}
    assert columns > {"test_ap", "test_ap50", "test_ap75", "test_ar100", "lr"}
    row = trained.history[-1]
    assert row["train_loss"] == pytest.approx(
        sum(row[f"train_loss_{name}"] for name in losses), rel=1e-4
    )
    stored = yaml.safe_load((run / "config.yaml").read_text())
    assert (stored["norms"], stored["trainable_layers"], stored["num_classes"]) == ("normal", 5, 3)
    assert os.path.isabs(stored["data"])


def test_evaluating_a_run_gives_what_it_reported(trained):
    metrics = detection.evaluate(trained.output, device="cpu")
    assert metrics == trained.test
    assert metrics.ar100 > 0  # else many detectors would give these numbers
    assert metrics.images == 3
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # that the data have changed
        other = detection.evaluate(trained.output, split="train", device="cpu")
    assert other.images == 9  # the one without boxes is not trained on, and measured neither


def test_a_loaded_detector_does_not_depend_on_what_it_saw_first(trained):
    """torchvision's tells the maps' scales from the first batch, wrongly for tiny images."""
    wide, tall = torch.rand(3, 40, 64), torch.rand(3, 64, 40)
    first, second = detection.load(trained.output), detection.load(trained.output)
    assert first.classes == ("red", "green", "blue")
    with torch.no_grad():
        first([wide])
        assert torch.equal(first([tall])[0]["boxes"], second([tall])[0]["boxes"])


def test_config_yaml_repeats_the_run_bit_for_bit(trained, tmp_path):
    config = DetectConfig.from_yaml((trained.output / "config.yaml").read_text())
    again = detection.train(config, output=str(tmp_path / "again"))
    assert again.weights_sha256 == trained.weights_sha256
    assert again.test == trained.test
    other = detection.train(config, output=str(tmp_path / "other"), seed=4)
    assert other.weights_sha256 != trained.weights_sha256


def test_list_runs_shows_average_precision(trained, classified):
    (listed,) = list_runs(trained.output.parent)
    assert (listed.task, listed.model, listed.state) == ("detection", "resnet8", "finished")
    assert (listed.ap, listed.top1) == (trained.test.ap, None)
    (other,) = list_runs(classified.parent)
    assert (other.task, other.ap) == ("classification", None)
    assert other.top1 is not None


# resuming


def run_or_resume(data, run, **more):
    warnings.simplefilter("ignore")
    if (run / "config.yaml").exists():
        detection.train(resume=run)
    else:
        detection.train(**options(data, run, **RANDOM, **more))


def finish(data, run, tmp_path):
    log = tmp_path / "log"
    assert wait(in_child(lambda: run_or_resume(data, run), log)) == 0, log.read_text()
    return log.read_text()


@pytest.fixture(scope="module")
def reference(data, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("reference")
    finish(data, folder / "run", folder)
    return folder / "run"


@pytest.mark.parametrize(
    ("plant", "where", "more"),
    [
        (lambda: in_the_step(2), (0, 1), {}),
        (lambda: in_the_step(6), (1, 2), {"workers": 2}),
        (lambda: in_the_loader(13), (1, 0), {}),
    ],
    ids=["step", "workers", "loader"],
)
def test_a_killed_run_goes_on_to_the_same_end(data, reference, tmp_path, plant, where, more):
    run, log = tmp_path / "run", tmp_path / "killed"

    def doomed():
        plant()
        run_or_resume(data, run, **more)

    assert wait(in_child(doomed, log)) == -signal.SIGKILL, log.read_text()
    saved, problems = checkpoint.load(run)
    assert not problems
    assert (saved.values["epoch"], saved.values["step"]) == where
    assert "going on from" in finish(data, run, tmp_path)
    assert_equal_ends(reference, run)


def test_a_stopped_run_goes_on_to_the_same_end(data, reference, tmp_path):
    """SIGTERM; the message names the command of detection."""
    run, ready, log = tmp_path / "run", tmp_path / "ready", tmp_path / "log"

    def work():
        announce(2)(ready)
        warnings.simplefilter("ignore")
        try:
            detection.train(**options(data, run, **{**RANDOM, "checkpoint_minutes": 100}))
        except TrainingInterrupted as e:
            print(e)
            return e.signal

    pid = in_child(work, log)
    until(ready.exists)
    os.kill(pid, signal.SIGTERM)
    assert wait(pid) == signal.SIGTERM, log.read_text()
    assert f"go on with: accuracy-booster detect train --resume {run}" in log.read_text()
    finish(data, run, tmp_path)
    assert_equal_ends(reference, run)


def test_the_reference_is_random_inside_the_detector(reference):
    """The equalities above would also hold for trainings in which nothing is random."""
    row = Run(reference).history()
    assert row[0]["train_loss"] != row[1]["train_loss"]
    config = DetectConfig.from_yaml((reference / "config.yaml").read_text())
    assert config.min_size == (32, 40)
    assert (config.augment, config.ema) == ("ssd", 0.9)


def test_resuming_takes_only_what_leaves_the_result(trained):
    before = (trained.output / "model.safetensors").stat().st_mtime_ns
    assert detection.train(resume=trained.output).weights_sha256 == trained.weights_sha256
    assert (trained.output / "model.safetensors").stat().st_mtime_ns == before
    with pytest.raises(ValueError, match="leave out backbone, lr"):
        detection.train("resnet8", resume=trained.output, lr=0.1)


# processes


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


# freezing


@pytest.mark.parametrize("gates", ["frozen", "trained"])
def test_frozen_stages_stay_and_their_gates_as_asked(data, classified, tmp_path, gates):
    before = load_file(classified / "model.safetensors")
    result = detection.train(
        **options(
            data,
            tmp_path / "run",
            **{**PYRAMID, "backbone": str(classified)},
            **{"gates_of_frozen_layers": gates, "epochs": 1, "clip_grad": 1.0},
        )
    )
    config = result.config
    assert (config.norms, config.trainable_layers) == ("frozen", 3)
    assert (config.backbone, config.block) == ("timm/test_resnet", "ab")
    after = load_file(tmp_path / "run" / "model.safetensors")
    detector = detection.load(tmp_path / "run")
    parts = {part.name: part for part in detector.parts}
    assert [part.trained for part in parts.values()] == [False, False, True, True, True]
    changed: dict[str, set[bool]] = {}
    for name, part in parts.items():
        for tensor in part.tensors:
            same = torch.equal(after[tensor], before[tensor.removeprefix("backbone.body.")])
            if "running" in tensor or "tracked" in tensor:
                assert same, tensor  # all norms are frozen, those of gates too
            elif "recalibrate" in tensor:
                changed.setdefault(f"{name} gates", set()).add(not same)
            elif part.trained and not same:
                changed.setdefault(name, set()).add(True)
            else:
                assert same or part.trained, tensor
    assert changed.pop("layer1 gates") == {gates == "trained"}
    assert changed.keys() == {f"layer{i}{g}" for i in (2, 3, 4) for g in ("", " gates")}
    assert all(True in found for found in changed.values())


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
        maps = [net.plain.eval().backbone(x) for net in (boosted, plain)]
    for name in maps[0]:
        torch.testing.assert_close(maps[0][name], maps[1][name])
    buffers = dict(boosted.plain.named_buffers())
    means = [v for k, v in buffers.items() if "recalibrate" in k and k.endswith("running_mean")]
    assert len(means) == 4
    assert all(mean.abs().min() > 0 for mean in means)
    measured = dict(boosted.measured().named_buffers())
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


# starts


def test_weights_of_torchvision(data, start, tmp_path, capsys):
    """A whole detector of another number of classes: all but the predictor comes."""
    body = torchvision.models.detection.backbone_utils.resnet_fpn_backbone(
        backbone_name="resnet18", weights=None, trainable_layers=5
    )
    other = torchvision.models.detection.FasterRCNN(body, num_classes=7)
    torch.save({f"module.{k}": v for k, v in other.state_dict().items()}, tmp_path / "w.pth")
    given = {**PYRAMID, "backbone": "torchvision/resnet18", "weights": str(tmp_path / "w.pth")}
    trainer = start(data, **given)
    own, known = trainer.network.state_dict(), other.state_dict()
    for name, tensor in own.items():
        if "recalibrate" in name or name.endswith("num_batches_tracked"):
            continue
        same = name in known and torch.equal(tensor, known[name])
        assert same != name.startswith("roi_heads.box_predictor"), name
    assert "new head" in " ".join(capsys.readouterr().err.split())
    with pytest.raises(ValueError, match="of another detector"):
        start(data, **{**given, "backbone": "torchvision/resnet34"})


def test_weights_of_a_detector_of_other_classes(trained, data, start, tmp_path):
    """The predictor comes for the same classes only; their number alone says nothing."""
    renamed = make_coco(tmp_path / "renamed")
    for file in (renamed / "annotations").iterdir():
        file.write_text(file.read_text().replace('"red"', '"crimson"'))
    weights = load_file(trained.output / "model.safetensors")
    for where, kept in ((data, True), (renamed, False)):
        given = {"weights": str(trained.output), "backbone": None, "block": "ab"}
        own = start(where, **given).plain.state_dict()
        same = {name: torch.equal(own[name], weights[name]) for name in own}
        predictor = {n for n in same if n.startswith("roi_heads.box_predictor") and "weight" in n}
        assert {same[name] for name in predictor} == {kept}
        assert all(v for n, v in same.items() if not n.startswith("roi_heads.box_predictor"))


def test_starts_that_fail_are_one_line(trained, classified, data, tmp_path):
    (tmp_path / "damaged.pth").write_bytes(b"PK\x03\x04 no weights")
    torch.save(create_model("resnet8").state_dict(), tmp_path / "resnet8.pth")
    cases = [
        ({"weights": str(tmp_path / "damaged.pth")}, "damaged.pth"),
        ({"weights": str(tmp_path / "nowhere.pth")}, "nowhere.pth"),
        ({"backbone": "resnet14", "weights": str(tmp_path / "resnet8.pth")}, "resnet8.pth"),
        ({"weights": str(trained.output), "block": "se"}, "of another detector"),
        ({"weights": str(trained.output), "head": "fpn"}, "of another detector"),
        (
            {"backbone": str(classified), "block": "se", "anchor_sizes": None},
            "give the block that they are of",
        ),
        ({"backbone": str(trained.output)}, "run of 'detection', not of classification"),
        ({"backbone": str(classified), "weights": "w.pth"}, "leave weights out"),
        ({"backbone": None}, "name a backbone"),
        ({"backbone": "resnet8", "block": "dia"}, "dia"),
        ({"anchor_sizes": (8, 16), "head": "fpn"}, "anchor_sizes"),
        ({"precision": "fp16"}, "needs a GPU"),
        ({"norms": "normal", "batch_size": 1}, "batch_size=1 must be >= 2"),
        ({"batch_size": 2, "accumulate": 2, "norms": "normal"}, "accumulate=2 must be"),
        ({"num_classes": 5}, "num_classes=5, but"),
        ({"trainable_layer": 3}, "trainable_layers"),
    ]
    for change, message in cases:
        with pytest.raises(ValueError, match=message) as caught:
            detection.train(**options(data, tmp_path / "run", **change))
        assert "\n" not in str(caught.value), change
        assert not (tmp_path / "run" / "config.yaml").exists(), change


# the step


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


# data


def test_missing_images_within_and_beyond_what_is_allowed(tmp_path):
    data = make_coco(tmp_path / "data")
    for number in (1, 4):
        (data / "train2017" / f"{number:03}.png").unlink()
    with pytest.raises(ValueError, match=r"2 image files of .* bad_images=1, the first .*001\.png"):
        detection.train(**options(data, tmp_path / "run", bad_images=1))
    assert not (tmp_path / "run").exists()
    result = detection.train(**options(data, tmp_path / "run", bad_images=2, epochs=1))
    told = json.loads((result.output / "run.json").read_text())["unreadable"]
    assert 1 <= len(told) <= 2
    assert "001.png" in told[0] or "004.png" in told[0]


def test_boxes_of_no_area_within_and_beyond_what_is_allowed(tmp_path, capsys):
    def flat(content):
        for annotation in content["annotations"][3:5]:
            annotation["bbox"][2] = 0

    data = make_coco(tmp_path / "data", change=flat)
    with pytest.raises(ValueError, match=r"2 annotations of .* more than bad_annotations=1"):
        detection.train(**options(data, tmp_path / "run", bad_annotations=1))
    assert not (tmp_path / "run").exists()
    detection.train(**options(data, tmp_path / "run", bad_annotations=2, epochs=1))
    assert "2 of 14 annotations have no area" in " ".join(capsys.readouterr().err.split())


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


def test_the_rate_goes_with_the_batch_that_there_is(data, tmp_path, capsys):
    given = {**options(data, tmp_path / "run"), "epochs": 1, "batch_size": 400}
    given.pop("lr", None)
    config = detection.train(**given).config
    assert config.batch_size < 400
    assert config.lr == pytest.approx(0.00125 * config.batch_size)
    assert f"batch_size={config.batch_size}, not 400" in capsys.readouterr().err
    own = detection.train(**{**given, "output": str(tmp_path / "own"), "lr": 0.001}).config
    assert own.lr == 0.001


def test_one_size_may_be_a_number():
    assert DetectConfig("resnet18", data="x", min_size=96).min_size == (96,)


def test_a_batch_of_one_image():
    frozen = DetectConfig("resnet18", data="x", norms="frozen", batch_size=1)
    assert RunConfig.of_any_task(frozen.to_yaml())[0].batch_size == 1
    assert DetectConfig("resnet18", data="x", block="none", norms="normal", batch_size=1)
    with pytest.raises(ValueError, match="with --norms frozen one is enough"):
        frozen.change({"norms": "normal"})

"""Runs of detectors: their directory, resuming, and repeating."""

from __future__ import annotations

import json
import os
import signal
import warnings
from pathlib import Path

import pytest
import torch
import yaml
from support.detectors import NO_DEAD_NORMS, options
from support.interruptions import announce, in_the_loader, in_the_step
from support.processes import cannot_fork, in_child, until, wait
from support.trainings import assert_equal_ends

from accuracy_booster import detection
from accuracy_booster.detection.config import DetectConfig
from accuracy_booster.errors import TrainingInterrupted
from accuracy_booster.training import checkpoint, list_runs
from accuracy_booster.training.run_directory import Run

# N batch, C channels, H W space


pytestmark = [pytest.mark.forks, cannot_fork, NO_DEAD_NORMS]
# everything that is random: sizes are drawn inside the detector
RANDOM = {"augment": "ssd", "min_size": (32, 40), "ema": 0.9, "checkpoint_minutes": 0}


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

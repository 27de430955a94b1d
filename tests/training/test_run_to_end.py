"""A run goes on from everywhere, with data that have moved, and for more epochs."""

import json
import os
import shutil
import warnings
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file
from accuracy_booster.training import classification, network_building, opening_data, run_to_end, trainer
from accuracy_booster.training.accelerator import make_accelerator
from accuracy_booster.training.classification import Classification
from accuracy_booster.training.freezing import freeze
from accuracy_booster.training.initial_weights import start_from_weights
from accuracy_booster.training.learning_rate import rate_factor, set_rates
from accuracy_booster.training.network_building import build_network
from accuracy_booster.training.network_files import load_network
from accuracy_booster.training.network_outputs import split_outputs
from accuracy_booster.training.opening_data import fill_in, open_data, open_data_of_new_run
from accuracy_booster.training.optimizer import make_optimizer
from accuracy_booster.training.train_config import TrainConfig
from accuracy_booster.training.trainer import Trainer
from support.interruptions import before_the_result, poisoned
import itertools
import accuracy_booster as ab
from accuracy_booster import files
from accuracy_booster.analysis import comparison
from accuracy_booster.cli import main
from accuracy_booster.errors import TrainingStopped
from accuracy_booster.training import checkpoint, list_runs, trainer
from accuracy_booster.training.lock import LOCK, locked
from accuracy_booster.training.run_directory import Run

import hashlib
import importlib.util
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import load_file
from support.interruptions import (
    after_the_step,
    announce,
    around_a_rename,
    endless,
    full_disk,
    in_evaluation,
    in_half_a_write,
    in_the_loader,
    in_the_step,
)
from support.processes import cannot_fork, in_child, until, wait
from support.trainings import (
    assert_equal_ends,
    end_state,
    finish,
    kill,
    make_data,
    options,
    run_or_resume,
    signalled,
)
from torch import nn
from accuracy_booster.training import classification, network_building, opening_data, run_to_end, trainer
from accuracy_booster.training.accelerator import make_accelerator
from accuracy_booster.training.classification import Classification
from accuracy_booster.training.freezing import freeze
from accuracy_booster.training.initial_weights import start_from_weights
from accuracy_booster.training.learning_rate import rate_factor, set_rates
from accuracy_booster.training.network_building import build_network
from accuracy_booster.training.network_files import load_network
from accuracy_booster.training.network_outputs import split_outputs
from accuracy_booster.training.opening_data import fill_in, open_data, open_data_of_new_run
from accuracy_booster.training.optimizer import make_optimizer
from accuracy_booster.training.train_config import TrainConfig
from accuracy_booster.training.trainer import Trainer
from support.interruptions import before_the_result, poisoned
import itertools
import accuracy_booster as ab
from accuracy_booster import signals
from accuracy_booster.cli import main
from accuracy_booster.data import normalise
from accuracy_booster.errors import TrainingStopped
from accuracy_booster.training import (
    checkpoint,
    classification,
    list_runs,
    resolve,
    trainer,
)
from accuracy_booster.training.classification import Classification
from accuracy_booster.training.lock import is_locked, locked

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
from accuracy_booster.training import classification, network_building, opening_data, run_to_end, trainer
from accuracy_booster.training.accelerator import make_accelerator
from accuracy_booster.training.classification import Classification
from accuracy_booster.training.freezing import freeze
from accuracy_booster.training.initial_weights import start_from_weights
from accuracy_booster.training.learning_rate import rate_factor, set_rates
from accuracy_booster.training.network_building import build_network
from accuracy_booster.training.network_files import load_network
from accuracy_booster.training.network_outputs import split_outputs
from accuracy_booster.training.opening_data import fill_in, open_data, open_data_of_new_run
from accuracy_booster.training.optimizer import make_optimizer
from accuracy_booster.training.train_config import TrainConfig
from accuracy_booster.training.trainer import Trainer
from support.interruptions import before_the_result, poisoned
import itertools
import accuracy_booster as ab
from accuracy_booster import ops
from accuracy_booster.ops import precision
from accuracy_booster.training import classification, trainer
from accuracy_booster.training.presets import resolve

import json
import shutil
import warnings
import pytest
import torch
import yaml
from safetensors.torch import load_file
from support.files import make_run_old
from accuracy_booster.training import classification, network_building, opening_data, run_to_end, trainer
from accuracy_booster.training.accelerator import make_accelerator
from accuracy_booster.training.classification import Classification
from accuracy_booster.training.freezing import freeze
from accuracy_booster.training.initial_weights import start_from_weights
from accuracy_booster.training.learning_rate import rate_factor, set_rates
from accuracy_booster.training.network_building import build_network
from accuracy_booster.training.network_files import load_network
from accuracy_booster.training.network_outputs import split_outputs
from accuracy_booster.training.opening_data import fill_in, open_data, open_data_of_new_run
from accuracy_booster.training.optimizer import make_optimizer
from accuracy_booster.training.train_config import TrainConfig
from accuracy_booster.training.trainer import Trainer
from support.interruptions import before_the_result, poisoned
import itertools
import accuracy_booster as ab
from accuracy_booster import files
from accuracy_booster.cli import main
from accuracy_booster.training import list_runs, resolve, run_directory


SMALL = {"batch_size": 8, "device": "cpu", "image_size": 16}
SPLITS = {f"{split}/{name}": count for split, count in (("train", 8), ("test", 4)) for name in "ab"}


def small(folder, **options):
    """A run of seconds of the folder `folder`."""
    return ab.train("resnet8", data=str(folder), **{"epochs": 1, **SMALL, **options})


def weights(path):
    return load_file(path / "model.safetensors")


def equal_tensors(a, b) -> bool:
    return a.keys() == b.keys() and all(torch.equal_tensors(a[name], b[name]) for name in a)


@pytest.fixture
def here(tmp_path, make_folder, monkeypatch):
    """A working directory with a data set in `images`, and another of the same name elsewhere."""
    make_folder(SPLITS)
    make_folder(SPLITS | {"train/a": 9, "test/b": 5}, name="elsewhere/images")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_fewer_epochs_than_it_has_are_refused(here):
    small("images", output="run", epochs=3)
    with pytest.raises(ValueError, match=r"epochs=2, but .* begun its epoch 3; give --epochs 3"):
        ab.train(resume="run", epochs=2)
    assert main(["train", "--resume", "run", "--epochs", "2"]) == 2
    assert (here / "run" / "model.safetensors").exists()


def test_without_a_checkpoint_a_run_cannot_be_longer(here):
    small("images", output="run")
    shutil.rmtree(here / "run" / "checkpoints")
    before = weights(here / "run")
    with pytest.raises(ValueError, match=r"no good checkpoint any more; .* by --weights run"):
        ab.train(resume="run", epochs=2)
    assert equal_tensors(before, weights(here / "run"))
    assert ab.train(resume="run").output.name == "run"


class Killed(BaseException):
    pass


def test_an_interrupted_run_is_made_longer_or_shorter(here, monkeypatch):
    """Within its second epoch of three, two epochs still can be had, one cannot."""
    real, steps = torch.optim.SGD.step, itertools.count(1)

    def stop(self, *rest, **more):
        if next(steps) == 4:  # there are two steps in an epoch
            raise Killed
        return real(self, *rest, **more)

    with monkeypatch.context() as patch:
        patch.setattr(torch.optim.SGD, "step", stop)
        with pytest.raises(Killed):
            small("images", output="run", epochs=3, checkpoint_minutes=0.0)
    with pytest.raises(ValueError, match="begun its epoch 2"):
        ab.train(resume="run", epochs=1)
    assert len(ab.train(resume="run", epochs=4).history) == 4



@pytest.fixture
def grey(tmp_path):
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


def test_run_directory_and_reported_accuracy(grey, tmp_path):
    result = ab.train("resnet8", block="ab", data=str(grey), **short(tmp_path, epochs=3))
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
    model = ab.create_model("resnet8", recipe="ab", num_classes=3)
    model.load_state_dict(load_file(run / "model.safetensors"))
    # `train --config RUN/config.yaml` repeats it to the bit
    again = TrainConfig.from_yaml((run / "config.yaml").read_text())
    twin = ab.train(again, output=str(tmp_path / "twin"))
    first, second = (load_file(r / "model.safetensors") for r in (run, twin.output))
    assert first.keys() == second.keys()
    assert all(torch.equal(first[k], second[k]) for k in first)
    other = ab.train(again, output=str(tmp_path / "other"), seed=1)
    third = load_file(other.output / "model.safetensors")
    assert not torch.equal(first["conv1.weight"], third["conv1.weight"])

pytestmark = [pytest.mark.forks, cannot_fork]


def test_a_damaged_checkpoint_is_named_and_the_one_before_leads_to_the_same_end(
    data, reference, tmp_path
):
    run = tmp_path / "run"
    kill(data, run, tmp_path, lambda: in_the_step(7))
    newest = checkpoint.load(run)[0].path
    content = bytearray(newest.read_bytes())
    content[len(content) // 2] ^= 1
    newest.write_bytes(content)
    said = finish(data, run, tmp_path).replace("\n", "")
    assert f"{newest.name} is damaged" in said
    assert_equal_ends(reference(), run)


def test_all_checkpoints_damaged_starts_anew(data, reference, tmp_path):
    run = tmp_path / "run"
    kill(data, run, tmp_path, lambda: in_the_step(4))
    for path in (run / "checkpoints").iterdir():
        path.write_bytes(b"")
    said = " ".join(finish(data, run, tmp_path).split())
    assert "there is no good checkpoint" in said
    assert_equal_ends(reference(), run)


def test_a_run_that_was_moved_goes_on(data, reference, tmp_path):
    run = tmp_path / "run"
    kill(data, run, tmp_path, lambda: in_the_step(6))
    moved = tmp_path / "deep" / "moved"
    moved.parent.mkdir()
    run.rename(moved)
    finish(data, moved, tmp_path)
    assert_equal_ends(reference(), moved)
    assert not run.exists()

DIGITS = {
    **{"model": "resnet8", "block": "ab", "device": "cpu", "epochs": 1, "batch_size": 512},
    **{"compile": "off", "seed": 1},
}


@pytest.fixture(autouse=True)
def quiet():
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


@pytest.fixture(scope="module")
def two_runs(tmp_path_factory):
    """Two finished runs, which differ in their seed."""
    folder = tmp_path_factory.mktemp("runs")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for seed in (1, 2):
            ab.train(**{**DIGITS, "seed": seed}, output=str(folder / f"s{seed}"))
    return folder


@pytest.fixture
def run(two_runs, tmp_path):
    return shutil.copytree(two_runs / "s1", tmp_path / "run")


def train_digits(output, **more):
    return ab.train(**{**DIGITS, **more}, output=str(output))


def contents(folder):
    return {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


def equal_weights(first, second):
    a, b = (load_file(p / "model.safetensors") for p in (first, second))
    return a.keys() == b.keys() and all(torch.equal(a[k], b[k]) for k in a)


def test_another_runs_checkpoint_is_not_gone_on_from(two_runs, tmp_path, capsys):
    """It is further than the run itself, and would win."""
    longer = train_digits(tmp_path / "longer", epochs=3)
    run = shutil.copytree(two_runs / "s1", tmp_path / "run")
    for file in (longer.output / "checkpoints").glob("*.safetensors"):
        shutil.copy(file, run / "checkpoints")
    kept = contents(run / "checkpoints")
    ab.train(resume=run, epochs=2)
    told = " ".join(capsys.readouterr().err.split())
    assert "is of another run and is left alone" in told
    assert "going on from" in told
    assert "epoch0001" in told.partition("going on from")[2]
    train_digits(tmp_path / "two", epochs=2)
    assert {n for n in kept if n != "manifest.json"} <= set(contents(run / "checkpoints"))
    saved, _ = checkpoint.load(run, files.read_json(run / "run.json")["id"])
    assert saved.values["epoch"] == 2


def test_another_runs_whole_checkpoint_folder_is_not_gone_on_from(two_runs, run):
    (run / "model.safetensors").unlink()
    shutil.rmtree(run / "checkpoints")
    shutil.copytree(two_runs / "s2" / "checkpoints", run / "checkpoints")
    ab.train(resume=run)
    assert equal_weights(run, two_runs / "s1")


def flip(path):
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def test_damaged_weights_without_a_checkpoint_are_not_trained_over(run):
    flip(run / "model.safetensors")
    shutil.rmtree(run / "checkpoints")
    kept = (run / "model.safetensors").read_bytes()
    with pytest.raises(ValueError, match="no good checkpoint any more"):
        ab.train(resume=run)
    assert (run / "model.safetensors").read_bytes() == kept

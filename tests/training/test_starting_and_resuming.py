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


def stored(path):
    return yaml.safe_load((path / "config.yaml").read_text())
OPTIONS = {
    "constant": {"schedule": "step", "milestones": (), "lr": 0.01},
    "with a moving average": {"schedule": "step", "milestones": (), "lr": 0.01, "ema": 0.9},
}


@pytest.mark.parametrize("kind", OPTIONS)
def test_a_run_that_ended_is_trained_longer_to_the_same_end(kind, here):
    """With a rate that does not depend on the length it is the longer training, bit for bit."""
    small("images", output="run", epochs=2, **OPTIONS[kind])
    result = ab.train(resume="run", epochs=4)
    small("images", output="whole", epochs=4, **OPTIONS[kind])
    assert equal_tensors(weights(here / "run"), weights(here / "whole"))
    assert [row["epoch"] for row in result.history] == [1, 2, 3, 4]
    info = json.loads((here / "run" / "run.json").read_text())
    assert info["lengthened"] == [{"from": 2, "to": 4, "at": 2}]
    assert stored(here / "run")["epochs"] == 4
    ab.train(resume="run", epochs=5)
    info = json.loads((here / "run" / "run.json").read_text())
    assert info["lengthened"][1:] == [{"from": 4, "to": 5, "at": 4}]
    assert main(["train", "--resume", "run", "--epochs", "5"]) == 0  # it has ended: as it is


def test_the_rate_is_that_of_the_new_length_from_there_on(here):
    options = {"schedule": "cosine", "lr": 0.1}
    small("images", output="run", epochs=2, **options)
    history = ab.train(resume="run", epochs=4).history
    # 0.1 (1 + cos(pi e / E)) / 2: E is 2 in epochs 0 and 1, and 4 in epochs 2 and 3
    expected = [0.1, 0.05, 0.05, 0.0146447]
    assert [row["lr"] for row in history] == pytest.approx(expected, rel=1e-4)



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


def test_train_refusals(grey, tmp_path):
    options = short(tmp_path)
    with pytest.raises(ValueError, match="more than num_classes=2"):
        ab.train("resnet8", data=str(grey), num_classes=2, **options)
    with pytest.raises(ValueError, match=r"groups=5 must divide channels=16; try 4 or 8"):
        ab.train("resnet8", data=str(grey), block="ab_g5", **options)
    assert not (tmp_path / "run").exists(), "a refused run left something behind"
    ab.train("resnet8", data=str(grey), **options)
    with pytest.raises(ValueError, match="already holds a run; choose another --output, or --over"):
        ab.train("resnet8", data=str(grey), **options)
    weights = tmp_path / "run" / "model.safetensors"
    weights.rename(tmp_path / "weights")  # now it has not ended
    with pytest.raises(ValueError, match=r"has not ended.*--overwrite; go on .*--resume"):
        ab.train("resnet8", data=str(grey), **options)
    (tmp_path / "weights").rename(weights)
    ab.train("resnet8", data=str(grey), overwrite=True, **options)
    with pytest.raises(ValueError, match="needs a GPU"):
        ab.train("resnet8", data=str(grey), precision="fp16", **short(tmp_path, "half"))
    if not torch.cuda.is_available():
        with pytest.raises(ValueError, match="no CUDA device"):
            ab.train("resnet8", data=str(grey), **short(tmp_path, "cuda", device="cuda"))

pytestmark = [pytest.mark.forks, cannot_fork]


def hashes(folder):
    return {
        str(p.relative_to(folder)): hashlib.sha256(p.read_bytes()).hexdigest()
        for p in sorted(folder.rglob("*"))
        if p.is_file()
    }


def test_resuming_a_finished_run_changes_nothing(reference):
    run = reference()
    before = hashes(run)
    times = {p: p.stat().st_mtime_ns for p in run.rglob("*") if p.is_file()}
    first, second = ab.train(resume=run), ab.train(resume=str(run))
    assert hashes(run) == before
    assert {p: p.stat().st_mtime_ns for p in run.rglob("*") if p.is_file()} == times
    assert first == second
    assert first.test.to_dict() == json.loads((run / "run.json").read_text())["test"]
    assert len(first.history) == 2


def test_resume_goes_with_nothing_else(reference, capsys):
    run = reference()
    with pytest.raises(ValueError, match="the run's own settings; leave out lr"):
        ab.train(resume=run, lr=0.1)
    with pytest.raises(ValueError, match="leave out model, seed"):
        ab.train("resnet8", resume=run, seed=3, epochs=3)
    with pytest.raises(ValueError, match="name a model, or a run to resume"):
        ab.train()
    assert main(["train", "--resume", str(run), "--lr", "0.1"]) == 2
    assert "leave out lr" in capsys.readouterr().err
    with pytest.raises(ValueError, match="holds no run"):
        ab.train(resume=run / "nowhere")

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


def digit_words(command, output, **more):
    return [command, *(f"--{k}={v}" for k, v in {**DIGITS, "output": output, **more}.items())]


@pytest.mark.parametrize("more", [{"accumulate": 64, "batch_size": 64}, {"block": "nothing"}])
def test_settings_that_are_refused_leave_nothing_behind(more, tmp_path):
    assert main(digit_words("train", tmp_path / "run", **more)) == 2
    assert not (tmp_path / "run").exists()

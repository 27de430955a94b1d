"""A run goes on from everywhere, with data that have moved, and for more epochs."""

import argparse
import collections
import dataclasses
import math
import os
import numpy as np
import pytest
import torch
import torch.nn.functional as F
import torchvision
from safetensors.torch import load_file, save_file
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
from accuracy_booster.models import classifier
from accuracy_booster.models.heads import heads
from accuracy_booster.models.weights import load_weights, read_weights
from accuracy_booster.training import resolve
from accuracy_booster.training.classification import Classification
from accuracy_booster.training.run_directory import Run

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


@pytest.fixture
def here(tmp_path, make_folder, monkeypatch):
    """A working directory with a data set in `images`, and another of the same name elsewhere."""
    make_folder(SPLITS)
    make_folder(SPLITS | {"train/a": 9, "test/b": 5}, name="elsewhere/images")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def stored(path):
    return yaml.safe_load((path / "config.yaml").read_text())


def test_a_run_keeps_absolute_paths_and_marks_of_its_data(here):
    result = small("images", output="run", data_dir="cache")
    assert result.config.data == str(here / "images") == stored(here / "run")["data"]
    assert stored(here / "run")["data_dir"] == str(here / "cache")
    marks = json.loads((here / "run" / "run.json").read_text())["data"]
    assert {split: mark["images"] for split, mark in marks.items()} == {"train": 16, "test": 8}
    digits = ab.train("resnet8", epochs=1, device="cpu", output="digits")
    assert digits.config.data == "digits"
    assert list(json.loads((here / "digits" / "run.json").read_text())["data"]) == ["train", "test"]
    named = resolve("resnet8", data="./")
    assert named.data_name == here.name

SIZE_32 = {"epochs": 1, "batch_size": 8, "device": "cpu", "image_size": 32}


@pytest.fixture
def folder(make_folder):
    """3 classes, 8 + 4 images of 32x32."""
    names = [f"{split}/{name}" for split in ("train", "test") for name in "abc"]
    return make_folder({n: 8 if n.startswith("train") else 4 for n in names}, size=(32, 32))


def test_a_batch_larger_than_the_data_is_the_data_in_one_part(folder, tmp_path):
    options = {**SIZE_32, "batch_size": 64, "accumulate": 4, "output": str(tmp_path / "run")}
    result = ab.train("resnet8", data=str(folder), **options)
    assert (result.config.batch_size, result.config.accumulate) == (24, 1)

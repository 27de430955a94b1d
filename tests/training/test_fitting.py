"""Presets, schedules, runs, and what is reported: on digits and on tiny made-up data."""

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


def test_the_last_epoch_is_reported_not_the_best(grey, tmp_path, monkeypatch):
    reported = iter([90.0, 50.0, 70.0])
    real = classification.measure
    monkeypatch.setattr(
        classification,
        "measure",
        lambda *a: type(real(*a))(top1=next(reported), top5=100.0, loss=1.0, images=9),
    )
    result = ab.train("resnet8", data=str(grey), **short(tmp_path, epochs=3))
    assert [r["test_top1"] for r in result.history] == [90.0, 50.0, 70.0]
    assert result.test.top1 == 70.0


def test_validation_split_keeps_the_test_set_out(grey, tmp_path, monkeypatch):
    measured = []
    real = trainer.Trainer.measure

    def spy(self, split, *rest):
        measured.append(split)
        return real(self, split, *rest)

    monkeypatch.setattr(trainer.Trainer, "measure", spy)
    options = short(tmp_path, epochs=2, validation=0.4)
    result = ab.train("resnet8", data=str(grey), **options)
    assert measured == ["validation", "validation", "test"]
    assert "validation_top1" in result.history[0]
    assert "test_top1" not in result.history[0]
    assert result.test.images == 9


def test_a_ragged_last_image_does_not_break_training(grey, tmp_path):
    """15 images in batches of 7: the image left over alone would give a gate's norm no spread."""
    result = ab.train("resnet8", block="ab", data=str(grey), **short(tmp_path, batch_size=7))
    assert result.history[0]["train_loss"] > 0


def test_digits_are_learned(tmp_path):
    """Not a stub: a small network with AB learns real images in a few epochs."""
    result = ab.train("resnet8", block="ab", **short(tmp_path, epochs=6, batch_size=64))
    assert result.test.top1 > 85
    assert result.history[0]["train_loss"] > 1.5 * result.history[-1]["train_loss"]

SIZE_32 = {"epochs": 1, "batch_size": 8, "device": "cpu", "image_size": 32}


@pytest.fixture
def folder(make_folder):
    """3 classes, 8 + 4 images of 32x32."""
    names = [f"{split}/{name}" for split in ("train", "test") for name in "abc"]
    return make_folder({n: 8 if n.startswith("train") else 4 for n in names}, size=(32, 32))


def test_an_image_left_over_is_no_batch_of_one(folder, tmp_path):
    """24 images in batches of 23: batch norms would refuse, or learn from, a batch of one."""
    options = {**SIZE_32, "batch_size": 23, "output": str(tmp_path / "run")}
    assert math.isfinite(ab.train("resnet8", data=str(folder), **options).history[0]["train_loss"])

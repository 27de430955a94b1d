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


def test_same_start_and_same_images_for_every_block(grey, tmp_path):
    first = {}
    for block in ("none", "ab_plus"):
        config = resolve("resnet8", block=block, data=str(grey), **short(tmp_path))
        data = open_data(config)
        one = trainer.Trainer(classification.Classification(fill_in(config, data), data))
        weights = one.network.conv1.weight.detach().clone()
        images, labels = next(iter(one.loaders["train"]))
        first[block] = (weights, images, labels)
    for a, b in zip(first["none"], first["ab_plus"], strict=True):
        assert torch.equal(a, b)

SIZE_32 = {"epochs": 1, "batch_size": 8, "device": "cpu", "image_size": 32}


@pytest.fixture
def folder(make_folder):
    """3 classes, 8 + 4 images of 32x32."""
    names = [f"{split}/{name}" for split in ("train", "test") for name in "abc"]
    return make_folder({n: 8 if n.startswith("train") else 4 for n in names}, size=(32, 32))


def test_trying_a_network_leaves_it_as_it_was(folder, tmp_path):
    config = resolve("resnet8", data=str(folder), **SIZE_32)
    data = open_data_of_new_run(config)
    trainer = Trainer(Classification(fill_in(config, data), data))
    before = {name: tensor.clone() for name, tensor in trainer.network.state_dict().items()}
    state = torch.get_rng_state()
    trainer.check_network()
    assert torch.equal(state, torch.get_rng_state())
    for name, tensor in trainer.network.state_dict().items():
        assert torch.equal(tensor, before[name]), name


def test_trying_a_network_leaves_the_warning_of_small_batches_for_training(
    folder, tmp_path, monkeypatch
):
    from accuracy_booster.blocks import layers

    monkeypatch.setattr(layers, "_warned", False)
    options = {**SIZE_32, "data": str(folder), "output": str(tmp_path / "run")}
    with pytest.warns(UserWarning, match="sees 8 values per channel, fewer than 16"):
        ab.train("resnet8", **options)


def test_each_part_of_each_process_has_two_images(folder, monkeypatch):
    config = resolve("resnet8", data=str(folder), **SIZE_32).change({"accumulate": 4})
    data = open_data_of_new_run(config)
    config = fill_in(config, data)
    real = trainer.make_accelerator

    class Two:
        """The accelerator of the first of two processes."""

        def __init__(self, own):
            self.own = own

        process_index, num_processes = 0, 2

        def __getattr__(self, name):
            return getattr(self.own, name)

    monkeypatch.setattr(trainer, "make_accelerator", lambda config: Two(real(config)))
    with pytest.raises(ValueError, match=r"batch_size=8 must be .* 2 processes .*at least 16"):
        trainer.Trainer(Classification(config, data))

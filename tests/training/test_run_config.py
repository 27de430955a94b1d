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




def test_config_round_trip_and_refusals():
    c = resolve("wrn16_4", data="cifar10", image_size=40, mean=[0.1, 0.2, 0.3])
    assert TrainConfig.from_yaml(c.to_yaml()) == c
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



@pytest.fixture
def folder(make_folder):
    """3 classes, 8 + 4 images of 32x32."""
    names = [f"{split}/{name}" for split in ("train", "test") for name in "abc"]
    return make_folder({n: 8 if n.startswith("train") else 4 for n in names}, size=(32, 32))


def randomise(model: nn.Module) -> nn.Module:
    """Trained, as it were: no two tensors of it are those that another start gives."""
    generator = torch.Generator().manual_seed(5)
    with torch.no_grad():
        for name, tensor in model.state_dict().items():
            if tensor.is_floating_point():
                noise = torch.rand(tensor.shape, generator=generator)
                tensor.copy_(noise + 0.5 if "var" in name else tensor + 0.1 * (noise - 0.5))
    return model


@pytest.mark.parametrize(
    ("given", "fits"),
    [
        ({"batch_size": 4, "accumulate": 4}, False),
        ({"batch_size": 8, "accumulate": 3}, False),
        ({"batch_size": 8, "accumulate": 4}, True),
        ({"batch_size": 4, "accumulate": 1}, True),
    ],
)
def test_each_part_of_a_batch_has_two_images(given, fits):
    if fits:
        resolve("resnet8", **given)
        return
    size = given["batch_size"]
    with pytest.raises(ValueError, match=f"accumulate=.*divisor of batch_size={size}.*{size // 2}"):
        resolve("resnet8", **given)


@pytest.fixture
def weights_file(tmp_path):
    """A ResNet-8 of 3 classes with weights of its own, and a file of them."""
    model = randomise(ab.create_model("resnet8", num_classes=3))
    torch.save(model.state_dict(), tmp_path / "own.pth")
    return model, tmp_path / "own.pth"


def test_one_start_or_the_other(weights_file, tmp_path, folder):
    with pytest.raises(ValueError, match=r"weights=.*without pretrained"):
        ab.train("resnet18", pretrained=True, weights=str(weights_file[1]))
    with pytest.raises(ValueError, match="leave out weights"):
        ab.train(resume=tmp_path / "run", weights=str(weights_file[1]))

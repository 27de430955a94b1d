"""Training the networks, heads and weights that people have: other outputs, heads and files."""

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


SIZE_32 = {"epochs": 1, "batch_size": 8, "device": "cpu", "image_size": 32}


@pytest.fixture
def folder(make_folder):
    """3 classes, 8 + 4 images of 32x32."""
    names = [f"{split}/{name}" for split in ("train", "test") for name in "abc"]
    return make_folder({n: 8 if n.startswith("train") else 4 for n in names}, size=(32, 32))
FROZEN = [
    ("timm/resnetv2_50x1_bit", ["head.fc.bias", "head.fc.weight"]),
    ("torchvision/resnet18", ["fc.bias", "fc.weight"]),
    ("resnet8", ["fc.bias", "fc.weight"]),
]


@pytest.mark.parametrize(("name", "expected"), FROZEN)
@pytest.mark.parametrize("keeps", [False, True])
def test_freeze_base_trains_the_gates_and_a_new_head(name, expected, keeps):
    with torch.device("meta"):
        network = ab.create_model(name, num_classes=3)
    ab.boost(network, "ab", example=torch.zeros(1, 3, 64, 64, device="meta"))
    config = resolve(name, data="cifar10", freeze="base")
    freeze(network, config, keeps_head=keeps)
    trained = {n for n, p in network.named_parameters() if p.requires_grad}
    assert sorted(n for n in trained if ".recalibrate." not in n) == ([] if keeps else expected)
    gates = {n for n, _ in network.named_parameters() if ".recalibrate." in n}
    assert gates
    assert gates <= trained


def test_a_frozen_network_with_a_convolution_for_a_head_trains(folder, tmp_path):
    options = {**SIZE_32, "data": str(folder), "freeze": "base", "output": str(tmp_path / "run")}
    result = ab.train("timm/resnetv2_18", **options)
    torch.manual_seed(0)
    fresh = build_network(result.config).state_dict()
    final = load_file(tmp_path / "run" / "model.safetensors")
    changed = {n for n in final if not torch.equal(final[n], fresh[n])}
    assert {n for n in changed if ".recalibrate." not in n} == {"head.fc.weight", "head.fc.bias"}

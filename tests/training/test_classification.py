"""Trainings that are killed, stopped, starved and damaged: they go on to the same end, bit for bit.

Processes are forked, as in benchmarks/faults.py, which does the same at random instants.
"""

# N batch, C channels, H W space

from __future__ import annotations

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


pytestmark = [pytest.mark.forks, cannot_fork]


def new_trainer(tmp_path, **more):
    """A trainer of digits on the network above, whose steps are called one by one."""
    given = {"block": "none", "batch_size": 32, "device": "cpu", "output": str(tmp_path / "run")}
    config = resolve("resnet8", **{**given, **more})
    data = open_data(config)
    made = trainer.Trainer(Classification(fill_in(config, data), data))
    made.initialise()
    return made


@pytest.mark.parametrize("smoothing", [0.0, 0.1, 0.4])
def test_label_smoothing_is_torchs(tmp_path, smoothing):
    made = new_trainer(tmp_path, label_smoothing=smoothing)
    batch = next(iter(made.loaders["train"].batches(0)))
    made.network.eval()
    loss, _ = made.task.loss(made.network, batch)
    with torch.no_grad():
        logits = made.network(normalise(batch.images, made.data.mean, made.data.std))
    smooth = torch.full((32, 10), smoothing / 10)
    smooth[torch.arange(32), batch.labels] += 1 - smoothing
    by_hand = -(smooth * logits.log_softmax(1)).sum(1).mean()
    assert loss.item() == pytest.approx(by_hand.item(), rel=1e-5)
    torchs = F.cross_entropy(logits, batch.labels, label_smoothing=smoothing)
    assert loss.item() == torchs.item()

SIZE_32 = {"epochs": 1, "batch_size": 8, "device": "cpu", "image_size": 32}


@pytest.fixture
def folder(make_folder):
    """3 classes, 8 + 4 images of 32x32."""
    names = [f"{split}/{name}" for split in ("train", "test") for name in "abc"]
    return make_folder({n: 8 if n.startswith("train") else 4 for n in names}, size=(32, 32))
GoogLeNet = torchvision.models.GoogLeNetOutputs
Inception = torchvision.models.inception.InceptionOutputs


class Small(nn.Module):
    """A stand-in of GoogLeNet or Inception v3: auxiliary heads that give logits in training."""

    def __init__(self, kind, classes=3):
        super().__init__()
        self.kind = kind
        self.conv = nn.Sequential(nn.Conv2d(3, 8, 3, stride=4), nn.BatchNorm2d(8), nn.ReLU())
        self.aux1, self.aux2, self.fc = (nn.Linear(8, classes) for _ in range(3))

    def forward(self, x):
        y = self.conv(x).mean((2, 3))
        if not self.training:
            return self.fc(y)
        if self.kind is GoogLeNet:
            return GoogLeNet(self.fc(y), self.aux2(y), self.aux1(y))
        return self.kind(self.fc(y), self.aux1(y))


def replace_network(monkeypatch, network):
    """Let runs train this network, whatever they name."""
    monkeypatch.setattr(network_building, "create_model", lambda name, **given: network())


@pytest.mark.parametrize(("kind", "weights"), [(GoogLeNet, (0.3, 0.3)), (Inception, (0.4,))])
def test_the_loss_adds_auxiliary_heads(kind, weights, folder, tmp_path, monkeypatch):
    replace_network(monkeypatch, lambda: Small(kind))
    options = {**SIZE_32, "batch_size": 24, "augment": "none", "mean": (0.5,) * 3, "std": (0.5,) * 3}
    result = ab.train(
        "resnet8", block="none", data=str(folder), output=str(tmp_path / "run"), **options
    )
    torch.manual_seed(0)
    model = Small(kind)
    data = ab.data.load_data(str(folder), mean=(0.5,) * 3, std=(0.5,) * 3)
    images = data.loaders["train"].dataset.images
    x, labels = (images.images.float() / 255 - 0.5) / 0.5, images.labels
    y = model.conv(x).mean((2, 3))
    own = [F.cross_entropy(head(y), labels) for head in (model.aux1, model.aux2)]
    expected = F.cross_entropy(model.fc(y), labels)
    expected = expected + sum(w * loss for w, loss in zip(weights, own, strict=False))
    # one step of all images: the loss that the run logs is that of the fresh network
    assert result.history[0]["train_loss"] == pytest.approx(expected.item(), rel=1e-4)
    final = load_file(tmp_path / "run" / "model.safetensors")
    fresh = model.state_dict()
    moved = [n for n in ("aux1.weight", "aux2.weight") if not torch.equal(final[n], fresh[n])]
    assert moved == ["aux1.weight", "aux2.weight"][: len(weights)]


def test_googlenet_trains_and_is_measured(make_folder, tmp_path):
    data = make_folder({f"{s}/{c}": 4 for s in ("train", "test") for c in "ab"}, size=(32, 32))
    result = ab.train(
        *("torchvision/googlenet",),
        **{**SIZE_32, "block": "none", "data": str(data), "output": str(tmp_path / "run")},
    )
    final = load_file(tmp_path / "run" / "model.safetensors")
    assert final["aux1.fc2.weight"].shape == final["aux2.fc2.weight"].shape == (2, 1024)
    # three heads of two classes: about (1 + 0.3 + 0.3) log 2 before the first step
    assert 0.8 * 1.6 * math.log(2) < result.history[0]["train_loss"] < 3 * 1.6 * math.log(2)
    assert ab.evaluate(tmp_path / "run").top1 == result.test.top1

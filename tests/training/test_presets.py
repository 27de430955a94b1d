"""Presets, schedules, runs, and what is reported: on digits and on tiny made-up data."""

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




@pytest.mark.parametrize(
    ("model", "data", "expected"),
    [
        ("resnet56", "cifar100", ("cifar_resnet", 200, 128, 0.1, 1e-4, False, 0)),
        ("resnet110", "cifar10", ("cifar_resnet_deep", 200, 128, 0.1, 1e-4, False, 1)),
        ("resnet164v1", "cifar10", ("cifar_resnet_deep", 200, 128, 0.1, 1e-4, False, 1)),
        ("wrn22_10", "cifar100", ("cifar_wrn", 200, 128, 0.1, 5e-4, True, 0)),
        ("resnet20", "digits", ("digits", None, 64, 0.1, 1e-4, False, 0)),
    ],
)
def test_presets(model, data, expected):
    c = resolve(model, data=data)
    got = (c.preset, c.epochs, c.batch_size, c.lr, c.weight_decay, c.nesterov, c.warmup_epochs)
    assert [g for g, e in zip(got, expected, strict=True) if e is not None] == [
        e for e in expected if e is not None
    ]
    changed = resolve(model, data=data, epochs=7, lr=0.3)
    assert (changed.epochs, changed.lr, changed.preset) == (7, 0.3, c.preset)
    named = resolve(model, data=data, preset="cifar_wrn")
    assert named.weight_decay == 5e-4

"""Trainings that are killed, stopped, starved and damaged: they go on to the same end, bit for bit.

Processes are forked, as in benchmarks/faults.py, which does the same at random instants.
"""

# N batch, C channels, H W space

from __future__ import annotations
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


def test_weight_decay_and_rates_of_gates_and_norms():
    config = resolve(
        *("resnet8",),
        **{"lr": 0.2, "gate_lr": 0.3, "weight_decay": 1e-4},
        **{"norm_weight_decay": 0.0, "gate_weight_decay": 5e-4},
    )
    network = ab.create_model("resnet8", recipe="ab", num_classes=10)
    optimizer = make_optimizer(network, config)
    found = {
        id(p): (g["lr0"], g["weight_decay"]) for g in optimizer.param_groups for p in g["params"]
    }
    kinds = set()
    for name, parameter in network.named_parameters():
        if ".recalibrate." in name:
            expected = (0.3, 5e-4)
        elif parameter.ndim < 2:
            expected = (0.2, 0.0)
        else:
            expected = (0.2, 1e-4)
        kinds.add(expected)
        assert found.pop(id(parameter)) == expected, name
    assert not found
    assert len(kinds) == 3
    set_rates(optimizer, 0.5)
    assert {g["lr"] for g in optimizer.param_groups} == {0.1, 0.15}
    alike = make_optimizer(network, resolve("resnet8"))
    assert len(alike.param_groups) == 1

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


def test_a_compiled_run_keeps_to_it_and_goes_on_to_the_same_end(data, tmp_path):
    given = {"compile": "on", "block": "none", "accumulate": 1, "mixup": 0.0, "cutmix": 0.0}

    def work(run, plant=lambda: None):
        def inside():
            real = torch.compile

            def compile(network, **options):
                print("compiled", flush=True)
                return real(network, backend="aot_eager", **options)

            torch.compile = compile
            plant()
            run_or_resume(data, run, **given)

        return wait(in_child(inside, tmp_path / "log"))

    assert work(tmp_path / "whole") == 0, (tmp_path / "log").read_text()
    run = tmp_path / "run"
    assert work(run, lambda: in_the_step(6)) == -signal.SIGKILL
    info = json.loads((run / "run.json").read_text())
    assert info["decided"] == {"compile": True, "fuse": True}
    text = (run / "config.yaml").read_text()
    assert "compile: 'on'" in text
    (run / "config.yaml").write_text(text.replace("compile: 'on'", "compile: 'off'"))
    assert work(run) == 0, (tmp_path / "log").read_text()
    assert (tmp_path / "log").read_text().count("compiled\n") == 3  # what was decided holds
    assert json.loads((run / "run.json").read_text())["decided"] == {"compile": True, "fuse": True}
    assert_equal_ends(tmp_path / "whole", run)


def test_the_decision_not_to_compile_is_kept(data, reference):
    info = json.loads((reference() / "run.json").read_text())
    assert info["decided"] == {"compile": False, "fuse": False}

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


def test_runs(data, reference, tmp_path, capsys):
    done = reference()
    root = tmp_path / "runs"
    shutil.copytree(done, root / "deep" / "done")
    kill(data, root / "stopped", tmp_path, lambda: in_the_step(6))
    kill(data, root / "early", tmp_path, lambda: in_the_step(1))
    for name, damage in (("bad", "config.yaml"), ("worse", "run.json")):
        shutil.copytree(done, root / name)
        (root / name / damage).write_text("{")
    listed = {r.path.name: r for r in list_runs(root)}
    assert set(listed) == {"done", "stopped", "early", "bad", "worse"}
    test = json.loads((done / "run.json").read_text())["test"]
    assert (listed["done"].state, listed["done"].top1) == ("finished", test["top1"])
    row = listed["stopped"]
    assert (row.state, row.epoch, row.epochs, row.seed) == ("stopped", 1, 2, 3)
    assert (row.model, row.block) == ("resnet8", "ab")
    assert row.top1 is not None
    assert listed["early"].state == "stopped before its first checkpoint"
    assert listed["early"].top1 is None
    for name in ("bad", "worse"):
        assert listed[name].state.startswith("damaged: ")
    assert main(["runs", str(root)]) == 0
    out = capsys.readouterr().out
    assert "--resume RUN goes on" in out
    for word in ("finished", "stopped", "damaged"):
        assert word in out
    assert main(["runs", str(root), "--json"]) == 0
    rows = json.loads(capsys.readouterr().out)["runs"]
    assert [Path(row["path"]).name for row in rows] == [r.path.name for r in list_runs(root)]
    assert main(["runs", str(tmp_path / "none")]) == 2
    assert "there is no folder" in capsys.readouterr().err

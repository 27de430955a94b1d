"""A run removes nothing that is not its own, and takes nothing that is another's."""

from __future__ import annotations
import json
import os
import shutil
import warnings
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file
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
from accuracy_booster.analysis import comparison
from accuracy_booster.cli import main
from accuracy_booster.errors import TrainingStopped
from accuracy_booster.training import checkpoint, list_runs, trainer
from accuracy_booster.training.lock import LOCK, locked
from accuracy_booster.training.run_directory import Run


DIGITS = {
    **{"model": "resnet8", "block": "ab", "device": "cpu", "epochs": 1, "batch_size": 512},
    **{"compile": "off", "seed": 1},
}


@pytest.fixture(autouse=True)
def quiet():
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


@pytest.fixture(scope="module")
def two_runs(tmp_path_factory):
    """Two finished runs, which differ in their seed."""
    folder = tmp_path_factory.mktemp("runs")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for seed in (1, 2):
            ab.train(**{**DIGITS, "seed": seed}, output=str(folder / f"s{seed}"))
    return folder


@pytest.fixture
def run(two_runs, tmp_path):
    return shutil.copytree(two_runs / "s1", tmp_path / "run")


@pytest.mark.parametrize(
    "content", [b"", b"epoch\n1\nx\n", b'epoch,a\n"1\n', b"epoch,a\n7,1\n", b"\xff", b"a,b\n1\n"]
)
def test_damaged_metrics_are_told_and_made_again(content, two_runs, run, capsys):
    whole = (run / "metrics.csv").read_bytes()
    (run / "metrics.csv").write_bytes(content)
    assert ab.evaluate(run, device="cpu").images == 360  # which needs the weights alone
    assert ab.train(resume=run).history
    assert "metrics.csv is damaged" in capsys.readouterr().err
    assert (run / "metrics.csv").read_bytes() == whole

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


def test_bf16_is_probed_in_a_child_process(grey, tmp_path, monkeypatch):
    """A CPU that ends the child with SIGILL is told in a line, and the parent lives."""
    die = "import os, signal; os.kill(os.getpid(), signal.SIGILL)"
    for code, works in ((die, False), ("pass", True)):
        monkeypatch.setattr(precision, "_BF16_PROBE", code)
        ops.bf16_works.cache_clear()
        assert ops.bf16_works("cpu") is works
        if not works:
            with pytest.raises(ValueError, match=r"bf16.*use precision='fp32'"):
                ab.train("resnet8", data=str(grey), precision="bf16", **short(tmp_path))
    ops.bf16_works.cache_clear()


def test_bf16_trains_where_it_works(grey, tmp_path):
    ops.bf16_works.cache_clear()
    if not ops.bf16_works("cpu"):
        pytest.skip("this CPU refuses bfloat16 (probed in a child process)")
    result = ab.train("resnet8", data=str(grey), precision="bf16", **short(tmp_path))
    assert math.isfinite(result.history[0]["train_loss"])

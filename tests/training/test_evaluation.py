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


def test_evaluate_counts_every_image_once(grey):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Flatten(), nn.Linear(3 * 16 * 16, 7))
    mean, std = (0.2, 0.3, 0.4), (0.5, 0.6, 0.7)
    names = ["dark", "grey", "white", "a", "b", "c", "d"]
    hits1 = hits5 = 0
    for label, name in enumerate(("dark", "grey", "white")):
        for file in sorted((grey / "test" / name).iterdir()):
            x = torch.tensor(np.array(Image.open(file))).permute(2, 0, 1).double() / 255
            x = (x - torch.tensor(mean)[:, None, None]) / torch.tensor(std)[:, None, None]
            order = model.double()(x[None])[0].argsort(descending=True).tolist()
            hits1 += order[0] == label
            hits5 += label in order[:5]
    model.float()
    for batch in (2, 4, 256):  # 9 images: ragged last batches
        options = {"mean": mean, "std": std, "eval_batch_size": batch, "classes": names}
        got = ab.evaluate(model, str(grey), **options)
        assert (got.top1, got.top5) == (
            pytest.approx(100 * hits1 / 9),
            pytest.approx(100 * hits5 / 9),
        )
        assert got.images == 9
    assert 0 < hits5 < 9, "the case tells nothing: every image is a hit, or none"
    assert model.training, "evaluate left the module in another mode"

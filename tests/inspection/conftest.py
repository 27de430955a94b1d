"""Networks, weights and runs with gates, which the tests of inspections share."""

# N images, C channels

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from support.inspected_runs import train_with_gates
from support.observed_detectors import make_coco_folder, make_detector
from support.observed_networks import Net, lively

import accuracy_booster as ab


@pytest.fixture(params=[1.0, 2.0])
def stored(request):
    """Weights [N, C], labels [N] and the scale, with values in every region and ties."""
    generator = np.random.default_rng(0)
    p = generator.beta(0.5, 0.7, (203, 5))
    p[:, 1] = 0.25  # a constant
    p[:, 2] = np.round(p[:, 2], 1)  # ties
    p[:, 3] *= 0.04  # dead
    labels = generator.integers(0, 4, 203)
    p[:, 4] = 0.2 + 0.15 * labels + 0.05 * generator.random(203)  # told by the class
    return torch.tensor(p * request.param), torch.tensor(labels), request.param


@pytest.fixture
def net():
    torch.manual_seed(0)
    return lively(Net())


@pytest.fixture(scope="session")
def run(tmp_path_factory) -> Path:
    """A trained ResNet-8 with AB; nobody changes it."""
    return train_with_gates(tmp_path_factory.mktemp("inspect") / "run")


@pytest.fixture(scope="session")
def found(run) -> ab.inspection.Inspection:
    """What `ab.inspect` finds of the run."""
    return ab.inspect(run, percents=(0, 10, 50))


@pytest.fixture(scope="session")
def detector() -> torch.nn.Module:
    """A tiny detector whose gates give other weights for each image; nobody changes it."""
    return make_detector()


@pytest.fixture
def coco(tmp_path) -> Any:
    """Five images in COCO's format, opened."""
    return ab.detection.load_coco(make_coco_folder(tmp_path), splits=("val",))

"""Fixtures that several files of models' tests use."""

from __future__ import annotations

import pytest
import torch
from support.trainings import randomise

import accuracy_booster as ab


@pytest.fixture
def weights_file(tmp_path):
    """A ResNet-8 of 3 classes with weights of its own, and a file of them."""
    model = randomise(ab.create_model("resnet8", num_classes=3))
    torch.save(model.state_dict(), tmp_path / "own.pth")
    return model, tmp_path / "own.pth"

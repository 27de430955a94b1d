"""Fixtures that several files of data tests use."""

# N batch, C channels, H W space

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch


@pytest.fixture
def encoded(png, pixels) -> list[bytes]:
    return [png(pixels(str(i), 8, 8)) for i in range(4)]


@pytest.fixture
def ten(make_folder) -> str:
    """Ten training and ten test images, whose colour is their number."""
    flat = [np.full((8, 8, 3), 20 * i, np.uint8) for i in range(10)]
    return str(make_folder({"train/a": flat[:5], "train/b": flat[5:], "val/a": flat}))


@pytest.fixture
def flat(make_folder) -> Path:
    """Class folders whose colours a network can tell, and no splits."""
    colours = {"dark": 30, "light": 220}
    pictures = {
        name: [np.full((8, 8, 3), level + i, np.uint8) for i in range(20)]
        for name, level in colours.items()
    }
    return make_folder(pictures, name="flat")


@pytest.fixture
def pictures(pixels) -> torch.Tensor:
    """What the four images must be read as, [4, C, H, W]."""
    return torch.tensor(np.stack([pixels(str(i), 8, 8) for i in range(4)])).permute(0, 3, 1, 2)

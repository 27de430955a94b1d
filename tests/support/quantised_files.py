"""Float32 files of networks, as int8 files are made of them."""

# N images, C channels, H W space

from __future__ import annotations

from pathlib import Path

import torch
from torch import nn

import accuracy_booster as ab
from accuracy_booster.deploy.writing import converted
from accuracy_booster.exported import About
from accuracy_booster.exported.formats import format_of
from accuracy_booster.training.opening_to_measure import Opened, open_measured


def about_of(network: nn.Module, block: str = "ab") -> About:
    """What a file of a run's network says of itself."""
    made = network.pretrained_cfg
    return About(
        *("tiny", block, tuple(network.classes), tuple(made["input_size"])),
        *(tuple(made["mean"]), tuple(made["std"])),
        metrics={"test_top1": 12.5},
    )


def write_float(network: nn.Module, path: Path, about: About) -> Path:
    """The float32 file, .onnx or .xml, of a network in eval mode, folded; any number of images."""
    example = torch.zeros(2, *about.input_size)
    folded = ab.fold(network, example=example, kernel="off")
    converted(folded, format_of(path), about.input_size)(path, about)
    return path


def opened(run: Path, split: str) -> Opened:
    """A split of a run's own data."""
    return open_measured(run, split=split)

"""Blocks with random weights, for tests."""

# N batch, C channels, H W space

from __future__ import annotations

import torch
from torch import nn

import accuracy_booster as ab
from accuracy_booster.blocks import TABLE

NAMES = [*TABLE, "ab_g2", "ab_g4"]
GATHERS = ["gather(2) | sigmoid", "gather(4) | sigmoid", "gather(4, learned=true) | sigmoid"]
EVERY = [*NAMES, *GATHERS]
BATCH_NORM = nn.modules.batchnorm._BatchNorm


def block(text, channels=32, size=(5, 7), dtype=torch.float64):
    return ab.Recalibrate(channels, text, spatial_size=size).to(dtype)


def randomise(module):
    """Weights, norms and running statistics far from their initial values."""
    with torch.no_grad():
        for name, value in [*module.named_parameters(), *module.named_buffers()]:
            if name.endswith("num_batches_tracked"):
                continue
            if name.endswith("running_var"):
                value.uniform_(0.5, 2)
            else:
                value.normal_(std=0.5)
    return module


def norm(c):
    return nn.BatchNorm2d(c, momentum=0.05)


def kind_counts(module):
    """(block weights, biases, batch norm's gamma and beta), the paper's conventions apart."""
    counts = [0, 0, 0]
    for name, value in module.named_parameters():
        owner = module.get_submodule(name.rpartition(".")[0])
        norm = isinstance(owner, BATCH_NORM)
        counts[2 if norm else name.endswith("bias")] += value.numel()
    return tuple(counts)

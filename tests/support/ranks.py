"""Residual networks on maps with 0 to 3 dimensions of space."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import nn

from accuracy_booster.surgery import attach
from accuracy_booster.surgery.sites import Site
from support.blocks import randomise

SPACES = {0: (), 1: (6,), 2: (5, 4), 3: (3, 4, 2)}
CLOSE = {"rtol": 1e-9, "atol": 1e-11}


CONV = {0: nn.Linear, 1: nn.Conv1d, 2: nn.Conv2d, 3: nn.Conv3d}
NORM = {0: nn.BatchNorm1d, 1: nn.BatchNorm1d, 2: nn.BatchNorm2d, 3: nn.BatchNorm3d}


class Block(nn.Module):
    def __init__(self, dims: int, channels: int, kernel: int, bias: bool):
        super().__init__()

        def layer() -> nn.Module:
            if dims == 0:
                return nn.Linear(channels, channels, bias=bias)
            return CONV[dims](channels, channels, kernel, padding=kernel // 2, bias=bias)

        self.conv1, self.bn1 = layer(), NORM[dims](channels)
        self.conv2, self.bn2 = layer(), NORM[dims](channels)

    def forward(self, x):
        branch = F.relu(self.bn1(self.conv1(x)))
        return F.relu(self.bn2(self.conv2(branch)) + x)


class Last(Block):
    """Ends in a convolution."""

    def __init__(self, *args):
        super().__init__(*args)
        del self.bn2

    def forward(self, x):
        return self.conv2(F.relu(self.bn1(self.conv1(x)))) + x


def boosted(dims, kernel=3, recipe="ab", kind=Block, bias=False):
    net = nn.Sequential(kind(dims, 8, kernel, bias), kind(dims, 8, kernel, bias))
    last = "bn2" if kind is Block else "conv2"
    sites = [Site(f"{i}.{last}", 8, SPACES[dims]) for i in (0, 1)]
    attach(net, recipe, sites)
    return randomise(net.double()), torch.randn(4, 8, *SPACES[dims], dtype=torch.float64)

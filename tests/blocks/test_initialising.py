"""How the weights of gates start."""

# N batch, C channels, H W space

from __future__ import annotations

import math

import pytest
import torch
from support.blocks import (
    block,
)
from torch import nn

import accuracy_booster as ab

pytestmark = pytest.mark.filterwarnings("error")


# (recipe with {} for the init, the inputs of one output of its weights)
WEIGHTED = [
    ("gap | dense(init={}) | sigmoid", 64),
    ("gap | dense(groups=C, init={}) | sigmoid", 1),
    ("gap | dense(groups=4, init={}) | sigmoid", 16),
    ("gap | conv1d(33, init={}) | sigmoid", 33),
    ("conv(3, init={}) | sigmoid", 9 * 64),
    ("dwconv(7, init={}) | sigmoid", 49),
    ("conv(global, init={}) | sigmoid", 5 * 7 * 64),
    ("dwconv(global, init={}) | sigmoid", 5 * 7),
    ("gather(global, learned=true, init={}) | sigmoid", 5 * 7),
    ("channel_pool | conv2d(7, init={}) | sigmoid", 98),
]


@pytest.mark.parametrize(("text", "fan_in"), WEIGHTED)
def test_init_of_the_weights(text, fan_in):
    def first(init):
        return dict(block(text.format(init), 64).named_parameters())

    for init, constant in (("zeros", 0.0), ("ones", 1.0)):
        for name, value in first(init).items():
            assert (value == (0.0 if name.endswith("bias") else constant)).all()
    bound = 1 / math.sqrt(fan_in)  # PyTorch's own: U(-bound, bound)
    for value in first("default").values():
        assert value.abs().max() <= bound
        if value.numel() > 1:
            assert value.abs().max() > (0.6 if value.numel() < 30 else 0.9) * bound
            assert value.std().item() == pytest.approx(bound / math.sqrt(3), rel=0.3)
    for name, value in first("kaiming_normal").items():
        if name.endswith("bias"):
            assert (value == 0).all()
        else:
            assert value.std().item() == pytest.approx(math.sqrt(2 / fan_in), rel=0.35)
            assert value.numel() < 60 or value.abs().max() > 1.8 * math.sqrt(2 / fan_in)


@pytest.mark.parametrize("groups", [1, 4, 32])
def test_default_init_is_pytorchs_own(groups):
    torch.manual_seed(7)
    theirs = nn.Conv2d(32, 32, 1, groups=groups)
    torch.manual_seed(7)
    ours = ab.Recalibrate(32, f"gap | dense(groups={groups}) | sigmoid")
    for mine, other in zip(ours.parameters(), theirs.parameters(), strict=True):
        assert torch.equal(mine, other.reshape(mine.shape))

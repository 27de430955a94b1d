"""A forward that a tool sets on one gated module keeps the gate, which acts once."""

# Gates are forced to p = 0.5, so a gate that is lost or applied twice changes the output.

import copy
import pickle

import pytest
import torch
from support.gated_branches import (
    Steps,
    assert_gated,
)
from support.gates import force, halved
from torch import nn

import accuracy_booster as ab


class Fusable(nn.Module):
    """As ultralytics' Conv: `fuse` gives the instance another forward, without the norm."""

    def __init__(self):
        super().__init__()
        self.conv, self.bn, self.act = nn.Conv2d(4, 4, 1), nn.BatchNorm2d(4), nn.SiLU()

    def forward(self, x):
        return self.act(self.bn(self.conv(x)))

    def forward_fuse(self, x):
        return self.act(self.conv(x))

    def fuse(self):
        self.conv = nn.utils.fuse_conv_bn_eval(self.conv, self.bn)
        del self.bn
        self.forward = self.forward_fuse


@pytest.mark.parametrize("fast", [False, True])
def test_a_forward_put_on_a_gated_module_keeps_the_gate(fast):
    x = torch.randn(2, 4, 6, 6)
    base = Steps(nn.Conv2d(4, 4, 1), nn.ReLU(), Fusable()).eval()
    model = force(ab.boost(copy.deepcopy(base), "ab", example=x[:1], where=["b.2"])).eval()
    if fast:
        ab.fuse(model, example=x[:1])
    expected = halved(copy.deepcopy(base), ["b.2"])(x).detach()
    model.b[2].fuse(), base.b[2].fuse()
    assert_gated(model, x, expected)
    assert_gated(copy.deepcopy(model), x, expected)
    assert_gated(pickle.loads(pickle.dumps(model)), x, expected)
    ab.unboost(model)
    assert_gated(model, x, base(x).detach())


@pytest.mark.parametrize("times", [1, 2])
def test_a_closure_over_the_former_forward_and_its_copies(times):
    """A deep copy calls the module that was copied, whose gate must be the only one that acts."""
    x = torch.randn(2, 4, 6, 6)
    base = Steps(nn.Conv2d(4, 4, 1), nn.BatchNorm2d(4)).eval()
    model = force(ab.boost(copy.deepcopy(base), "ab", example=x[:1], where=["b.1"])).eval()
    expected = halved(copy.deepcopy(base), ["b.1"])(x).detach()
    for _ in range(times):
        model.b[1].forward = lambda x, forward=model.b[1].forward: forward(x)
    assert_gated(model, x, expected)
    copied = copy.deepcopy(model)
    assert_gated(copied, x, expected)
    assert_gated(copy.deepcopy(copied), x, expected)
    ab.unboost(copied)
    assert_gated(model, x, expected)

"""Fused networks, the same ones layer by layer, and comparisons of both in float64."""

# N batch, C channels, H W space

from __future__ import annotations

import copy

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import accuracy_booster as ab
from support.networks import randomise

MODES = pytest.mark.parametrize("training", [True, False], ids=["training", "eval"])
CLOSE = {"rtol": 1e-10, "atol": 1e-11}


def fused_copy(model, x):
    """A fused copy."""
    return ab.fuse(copy.deepcopy(model), example=x[:1].detach())


class ResidualBlock(nn.Module):
    """relu(bn2(conv2(relu(bn1(conv1(x))))) + x); tests replace its last norm, branch or sum."""

    def __init__(self, channels=6, norm=None, act=None):
        super().__init__()
        self.conv1 = nn.Conv2d(channels, channels, 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(channels)
        self.conv2 = nn.Conv2d(channels, channels, 3, padding=1, bias=False)
        self.bn2 = norm or nn.BatchNorm2d(channels)
        self.act = act or nn.ReLU()

    def branch(self, x):
        return self.bn2(self.conv2(F.relu(self.bn1(self.conv1(x)))))

    def forward(self, x):
        return self.act(self.branch(x) + x)


class BranchModule(nn.Module):
    """A residual block whose branch is a module: its output is that of its last norm."""

    def __init__(self):
        super().__init__()
        layers = [nn.Conv2d(6, 6, 3, padding=1), nn.BatchNorm2d(6), nn.ReLU()]
        self.branch = nn.Sequential(*layers, nn.Conv2d(6, 6, 3, padding=1), nn.BatchNorm2d(6))
        self.path = nn.Identity()

    def forward(self, x):
        return F.relu(self.path(self.branch(x)) + x)


class ResidualNet(nn.Module):
    """A stem, residual blocks and a head of 4 classes, for images [N, 3, H, W]."""

    def __init__(self, *blocks, channels=6):
        super().__init__()
        self.stem = nn.Conv2d(3, channels, 3, padding=1)
        self.blocks = nn.Sequential(*blocks)
        self.head = nn.Linear(channels, 4)

    def forward(self, x):
        return self.head(self.blocks(self.stem(x)).mean((2, 3)))


def pair(model, recipe="ab", side=7, n=4, where="residual"):
    """(a boosted network, a fused copy, images [n, 3, side, side]), in float64."""
    x = torch.randn(n, 3, side, side, dtype=torch.float64)
    model.double()
    if recipe is not None:
        ab.boost(model, recipe, example=x[:1], where=where)
    randomise(model, signs=True)
    return model, fused_copy(model, x), x


def run(model, x, grad=None):
    """(output, gradients of the input and of every parameter) of one pass."""
    x = x.clone().requires_grad_()
    model.zero_grad()
    y = model(x)
    y.backward(torch.linspace(-1, 1, y.numel(), dtype=y.dtype).view_as(y) if grad is None else grad)
    return y.detach(), {"input": x.grad} | {n: p.grad for n, p in model.named_parameters()}


def assert_close(found, expected, what=""):
    """Relative to the largest value, since small values may be differences of large ones."""
    largest = max(float(expected.abs().max()), 1e-6) if expected.numel() else 1.0
    torch.testing.assert_close(
        found, expected, rtol=1e-10, atol=1e-10 * largest, msg=lambda m: f"{what}: {m}"
    )


def assert_same_pass(unfused, fused, x):
    """Outputs, gradients of all parameters and of x, and buffers afterwards are the same."""
    y, grads = run(unfused, x)
    again, others = run(fused, x)
    assert_close(again, y, "output")
    assert grads.keys() == others.keys()
    scale = max(float(g.abs().max()) for g in grads.values() if g is not None)
    for name, grad in grads.items():
        if grad is None:
            assert others[name] is None or not others[name].any(), name
            continue
        # the order of sums differs between processors: 3e-11 of the largest was seen in float64
        torch.testing.assert_close(
            others[name], grad, rtol=1e-9, atol=1e-10 * scale, msg=lambda m, n=name: f"{n}: {m}"
        )
    assert_same_buffers(unfused, fused)


def assert_same_buffers(unfused, fused):
    for (name, a), (again, b) in zip(unfused.named_buffers(), fused.named_buffers(), strict=True):
        assert name == again
        assert_close(b, a, name) if a.is_floating_point() else torch.testing.assert_close(b, a)

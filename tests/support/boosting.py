"""A small residual network with every kind of part, boosted or not, and its whole state."""

# N batch, C channels, H W space

from __future__ import annotations

import copy
import random

import numpy as np
import timm
import torch
from torch import nn
from torch.nn.modules import module as module_hooks
from torchvision.ops import StochasticDepth

import accuracy_booster as ab
from accuracy_booster.surgery import ATTRIBUTE
from support.gates import stir
from support.networks import randomise

SIDE = 16
MARK = f".{ATTRIBUTE}."


class ResidualBlock(nn.Module):
    """A residual block with a layer scale, stochastic depth and a projection where it is needed."""

    def __init__(self, inputs, outputs, stride=1):
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(outputs)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(outputs)
        self.gamma = nn.Parameter(torch.ones(outputs, 1, 1))
        self.drop = StochasticDepth(0.2, "row")
        same = inputs == outputs and stride == 1
        self.down = nn.Identity() if same else nn.Conv2d(inputs, outputs, 1, stride)

    def forward(self, x):
        y = self.bn2(self.conv2(torch.relu(self.bn1(self.conv1(x)))))
        return torch.relu(self.down(x) + self.drop(self.gamma * y))


class ResidualNet(nn.Module):
    def __init__(self, width=16, classes=5):
        super().__init__()
        self.stem = nn.Conv2d(3, width, 3, 1, 1)
        self.norm = nn.BatchNorm2d(width)
        self.layers = nn.Sequential(ResidualBlock(width, width), ResidualBlock(width, 2 * width, 2))
        self.dropout = nn.Dropout(0.1)
        self.head = nn.Linear(2 * width, classes)

    def forward(self, x):
        x = self.layers(torch.relu(self.norm(self.stem(x))))
        return self.head(self.dropout(x.mean((2, 3))))


SITES = ["layers.0.bn2", "layers.1.bn2"]
EXAMPLE = torch.zeros(1, 3, SIDE, SIDE)


def net(width=16, **options):
    return randomise(ResidualNet(width, **options))


def images(count=4, side=SIDE):
    return torch.randn(count, 3, side, side)


def gated(recipe="ab", **options):
    return stir(ab.boost(net(), recipe, example=EXAMPLE, **options)).eval()


def hook_count(model):
    """The number of hooks on all modules."""
    kinds = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")
    return sum(len(getattr(m, kind)) for m in model.modules() for kind in kinds)


def snapshot(model):
    """Everything that a query must not change: of the network, of random states, of torch."""
    return {
        "training": {name: m.training for name, m in model.named_modules()},
        "tensors": {name: value.clone() for name, value in model.state_dict().items()},
        "grads": {n: None if p.grad is None else p.grad.clone() for n, p in named(model)},
        "versions": [t._version for t in model.state_dict().values()],
        "requires": {n: p.requires_grad for n, p in named(model)},
        "attributes": {n: sorted(vars(m)) for n, m in model.named_modules()},
        "rng": torch.get_rng_state(),
        "python": random.getstate(),
        "numpy": [str(part) for part in np.random.get_state()],
        "hooks": hook_count(model),
        "global": len(module_hooks._global_forward_hooks),
        "grad": torch.is_grad_enabled(),
    }


def named(model):
    return list(model.named_parameters())


def assert_same_state(one, other):
    assert one.keys() == other.keys()
    for key in ("training", "versions", "requires", "attributes", "python", "hooks", "global"):
        assert one[key] == other[key], key
    assert one["numpy"] == other["numpy"]
    assert one["grad"] == other["grad"]
    assert torch.equal(one["rng"], other["rng"])
    for key in ("tensors", "grads"):
        assert list(one[key]) == list(other[key])
        for name, value in one[key].items():
            again = other[key][name]
            assert (value is None and again is None) or torch.equal(value, again), name


def with_attention(kind):
    model = timm.create_model(
        "resnet10t", num_classes=4, block_args={"attn_layer": kind}, zero_init_last=False
    )
    return randomise(model)


def trained(base, recipe="ab", **options):
    """A boosted copy whose gates and running statistics have changed."""
    model = ab.boost(copy.deepcopy(base), recipe, example=EXAMPLE, **options)
    optimizer = torch.optim.SGD(ab.added_parameters(model), lr=1.0)
    for _ in range(2):
        model.train()(images(16)).square().sum().backward()
        optimizer.step()
    return model.eval()

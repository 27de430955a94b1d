"""Networks with named sites, and what attaching leaves on them."""

# N batch, C channels, H W space

from __future__ import annotations

import copy

import pytest
import timm
import torch
import torchvision
from torch import nn

import accuracy_booster as ab
from accuracy_booster.surgery import attach, attached

without_warnings = pytest.mark.filterwarnings("error", "ignore:the batch norm of the gate")
STAGES = [f"layer{stage}.{i}.bn2" for stage in (1, 2, 3, 4) for i in (0, 1)]
NETWORKS = {  # how to build it, where its residual branches end, its input
    "torchvision resnet18": (
        lambda: torchvision.models.resnet18(weights=None, num_classes=5),
        STAGES,
        (3, 64, 64),
    ),
    "timm resnet10t": (
        lambda: timm.create_model("resnet10t", num_classes=5, zero_init_last=False),
        [f"layer{stage}.0.bn2" for stage in (1, 2, 3, 4)],
        (3, 64, 64),
    ),
    "our resnet20": (
        lambda: ab.create_model("resnet20"),
        [f"layer{stage}.{i}.bn2" for stage in (1, 2, 3) for i in (0, 1, 2)],
        (3, 16, 16),
    ),
}


def measure(model, names, size):
    """The sites at modules named by the user."""
    planned = ab.plan(model, "ab", where=names, example=torch.zeros(1, *size))
    return [gate.site for gate in planned.gates]


class Tiny(nn.Module):
    """conv, norm, ReLU; a second branch; a head."""

    def __init__(self, channels=8):
        super().__init__()
        self.conv = nn.Conv2d(3, channels, 3, padding=1)
        self.bn = nn.BatchNorm2d(channels)
        self.act = nn.ReLU()
        self.unused = nn.Conv2d(3, channels, 1)
        self.drop = nn.Dropout(0.5)
        self.head = nn.Linear(channels, 4)

    def forward(self, x):
        x = self.drop(self.act(self.bn(self.conv(x))))
        return self.head(x.mean((2, 3)))


def boosted_copy(model, names, size, recipe="ab"):
    """A boosted copy whose gates are far from all alike."""
    model = copy.deepcopy(model)
    attach(model, recipe, measure(model, names, size))
    with torch.no_grad():
        for gate in attached(model).values():
            for value in gate.parameters():
                value.normal_()
    return model


def traces(model):
    """What attaching leaves on a network beside the gates: changed classes and hooks."""
    gated = [m for m in model.modules() if type(m).__name__.startswith("Gated")]
    hooks = [h for m in model.modules() for h in m._forward_pre_hooks.values()]
    return [*gated, *hooks]


def captured(model):
    return (
        {name: m.training for name, m in model.named_modules()},
        {name: value.clone() for name, value in model.state_dict().items()},
        {n: None if p.grad is None else p.grad.clone() for n, p in model.named_parameters()},
        {n: p.requires_grad for n, p in model.named_parameters()},
        torch.get_rng_state(),
        torch.is_grad_enabled(),
        len(traces(model)),
    )


def assert_captured(one, other):
    torch.testing.assert_close(one[1], other[1], rtol=0, atol=0)
    torch.testing.assert_close(one[4], other[4], rtol=0, atol=0)
    for grad, again in zip(one[2].values(), other[2].values(), strict=True):
        assert (grad is None and again is None) or torch.equal(grad, again)
    for i in (0, 3, 5, 6):
        assert one[i] == other[i]

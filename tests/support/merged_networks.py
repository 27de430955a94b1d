"""Constants for gates, networks whose gates give constants, and one-layer networks to merge."""

# N batch, C channels, H W space

from __future__ import annotations

import copy

import torch
from torch import nn

import accuracy_booster as ab
from accuracy_booster.surgery import attached

IN_FLOAT64 = 1e-12


def constants(model):
    """{site: weights in (0, 1)}, in float64."""
    return {
        name: torch.rand(gate.channels, dtype=torch.float64)
        for name, gate in attached(model).items()
    }


def with_constants(model, given):
    """A copy whose gates at these sites multiply by the constants: what merging must compute."""
    new = copy.deepcopy(model)
    for name, gate in attached(new).items():
        if name in given:

            def times(gate, inputs, output, p=given[name]):
                (x,) = inputs
                if gate.layout == "NHWC":
                    return x * p
                return torch.einsum("nc...,c->nc...", x, p.to(x))

            gate.register_forward_hook(times)
    return new


def marks(model):
    """What attaching a gate would change on the modules of a network."""
    return [
        (name, type(m), sorted(m.__dict__), len(m._forward_hooks), len(m._forward_pre_hooks))
        for name, m in model.named_modules()
    ]


class LayerNet(nn.Module):
    """Layers, and a head that tells their channels apart."""

    def __init__(self, *layers, channels=6):
        super().__init__()
        self.layers = nn.ModuleList(layers)
        self.head = nn.Linear(channels, 4)

    def forward(self, x):
        for layer in self.layers:
            x = layer(x)
        return self.head(x.flatten(2).mean(2) if x.ndim > 2 else x)


def boosted(model, x, where=("layers.0",)):
    """(the network with random weights and gates, random constants), in float64."""
    with torch.no_grad():
        for value in model.parameters():
            value.normal_()
    ab.boost(model, "ab", example=x.float(), where=list(where))
    model.double().eval()
    return model, constants(model)

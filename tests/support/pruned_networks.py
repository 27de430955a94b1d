"""What a pruned network must compute: the whole network with the removed channels zeroed."""

# N batch, C channels, H W space

from __future__ import annotations

import copy
import itertools

import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from accuracy_booster.surgery import attached
from support.networks import randomise


def in_float64(model):
    """Norms and gates far from the identity, in eval mode and float64."""
    return randomise(model).eval().double()


def means_of(model):
    """{site: random mean weights [C]}."""
    return {site: torch.rand(gate.channels) for site, gate in attached(model).items()}


def check_same(got, wanted):
    """Equal up to rounding in float64, and not constant."""
    got, wanted = got.detach(), wanted.detach()
    assert wanted.std() > 1e-3
    assert (got - wanted).abs().max() <= 1e-12 * max(1, float(wanted.abs().max()))


def macs(model, x):
    """Multiply-adds of one pass, as torch counts them."""
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        model(x)
    return counter.get_total_flops() // 2


def parameters(model):
    """How many numbers are trained."""
    return sum(p.numel() for p in model.parameters())


def with_outputs_zeroed(model, kept):
    """The whole network, whose gates' outputs are 0 where channels are removed."""
    model = copy.deepcopy(model)
    for site, places in kept.items():
        gate = attached(model)[site]
        mask = torch.zeros(gate.channels, dtype=torch.float64)
        mask[places] = 1
        dims = gate.spatial_dims if gate.layout == "NCHW" else 0
        shape = (-1, *[1] * dims)
        mask = mask.view(shape)
        gate.register_forward_hook(lambda m, i, y, mask=mask: y * mask)
    return model


def with_inputs_zeroed(model, kept, readers):
    """The whole network, whose layers' weights are 0 where they read removed channels."""
    model = copy.deepcopy(model)
    for producer, places in kept.items():
        layer = model.get_submodule(readers[producer])
        groups = getattr(layer, "groups", 1)
        mask = torch.zeros(layer.weight.shape[1] * groups, dtype=torch.float64)
        mask[places] = 1
        rows = layer.weight.data.unflatten(0, (groups, -1))
        shape = (groups, 1, -1, *[1] * (layer.weight.ndim - 2))
        layer.weight.data = (rows * mask.view(shape)).flatten(0, 1)
    return model


def readers_of(model):
    """{a layer: the next one with weights between channels}, by the order of registration."""
    layers = [
        name
        for name, m in model.named_modules()
        if isinstance(m, (nn.Conv2d, nn.Linear)) and getattr(m, "groups", 0) != m.weight.shape[0]
    ]
    return dict(itertools.pairwise(layers))

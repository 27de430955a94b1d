"""Gates with known weights, and what a network with such gates must compute."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TypeVar

import torch
from torch import nn

from accuracy_booster.surgery import attached

Network = TypeVar("Network", bound=nn.Module)


def force(model: Network, p: float = 0.5) -> Network:
    """Make the weight of every gate p, whatever the images: its norm gives logit(p) alone."""
    for gate in attached(model).values():
        norm = gate[0].bn
        nn.init.zeros_(norm.weight)
        nn.init.constant_(
            norm.bias, float(torch.logit(torch.tensor(p / gate.recipe.gates[0].scale)))
        )
    return model


@torch.no_grad()
def shut(model: Network) -> Network:
    """Make every gate give exactly zero in eval mode, and choose that mode."""
    for gate in attached(model).values():
        gate[-1].bn.weight.zero_()
        gate[-1].bn.bias.fill_(-1e4)
    return model.eval()


@torch.no_grad()
def stir(model: Network) -> Network:
    """Make gates differ between channels and images, with running statistics of their own."""
    for gate in attached(model).values():
        for name, value in gate.state_dict().items():
            if name.endswith("running_var"):
                value.uniform_(0.5, 1.5)
            elif value.is_floating_point():
                value.normal_()
    return model


def halved(model: Network, names: Iterable[str]) -> Network:
    """A network without gates, with the outputs of the named modules halved by hooks."""
    for name in names:
        model.get_submodule(name).register_forward_hook(lambda m, args, y: y / 2)
    return model

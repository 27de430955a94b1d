"""A network that does with its branches what a function says."""

from __future__ import annotations

import copy

import torch
from torch import nn

import accuracy_booster as ab
from accuracy_booster.surgery import attach, attached

CHANNELS = 4
IMAGE = torch.zeros(1, 3, 12, 12)
RANKS = {1: (nn.Conv1d, nn.BatchNorm1d), 2: (nn.Conv2d, nn.BatchNorm2d)}
RANKS[3] = (nn.Conv3d, nn.BatchNorm3d)


def drawn_branch(
    channels: int = CHANNELS, rank: int = 2, last: tuple[nn.Module, ...] = ()
) -> nn.Sequential:
    conv, norm = RANKS[rank]
    layers = [conv(channels, channels, 3, padding=1), norm(channels), nn.ReLU()]
    return nn.Sequential(*layers, conv(channels, channels, 3, padding=1), norm(channels), *last)


class DrawnNet(nn.Module):
    """A stem, and then what a function does with its map and the branches b and (halved) h."""

    def __init__(self, run, rank: int = 2, last: tuple[nn.Module, ...] = ()):
        super().__init__()
        self.stem = RANKS[rank][0](3, CHANNELS, 1)
        self.b = nn.ModuleList(drawn_branch(rank=rank, last=last) for _ in range(3))
        self.h = nn.ModuleList(drawn_branch(CHANNELS // 2, rank) for _ in range(4))
        self.pool = nn.AvgPool2d(3, 1, 1)
        self.run = run

    def forward(self, x):
        return self.run(self, self.stem(x))


def names(model: nn.Module, example=IMAGE, **options) -> list[str]:
    planned = ab.plan(model, "ab", example=example, **options)
    assert planned.skipped == []
    return [gate.site.name for gate in planned.gates]


def assert_gates_act_once(model: nn.Module, example: torch.Tensor, x: torch.Tensor) -> None:
    """With every gate at 0.5, the network is the base with each site's output halved, once."""
    model = model.eval()
    sites = [gate.site for gate in ab.plan(model, "ab", example=example).gates]
    base = copy.deepcopy(model)
    attach(model, "ab", sites)
    with torch.no_grad():
        for gate in attached(model).values():
            for parameter in gate.parameters():
                parameter.zero_()
        for site in sites:
            base.get_submodule(site.name).register_forward_hook(lambda m, a, y: y / 2)
        torch.testing.assert_close(model(x), base(x), rtol=1e-4, atol=1e-5)


ONE, TWO = ["b.0.4"], ["b.0.4", "b.1.4"]

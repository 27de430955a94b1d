"""A small residual network whose gates all give p = 0.5, and what it must give.

The right value is the base network with its branches halved. A lost gate gives a factor of 1, and
one that acts twice 0.25.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import nn

import accuracy_booster as ab

CHANNELS = 8
HALF = "gap | dense(groups=C) | bn | sigmoid"


class Block(nn.Module):
    def __init__(self, channels: int = CHANNELS):
        super().__init__()
        self.conv1 = nn.Conv2d(channels, channels, 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(channels)
        self.conv2 = nn.Conv2d(channels, channels, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(channels)

    def forward(self, x):
        return F.relu(x + self.bn2(self.conv2(F.relu(self.bn1(self.conv1(x))))))


def network(blocks: int = 2) -> nn.Sequential:
    """Random weights and running statistics, in eval mode; the same at each call."""
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Conv2d(3, CHANNELS, 3), *(Block() for _ in range(blocks)), nn.Flatten()
    )
    for norm in model.modules():
        if isinstance(norm, nn.BatchNorm2d):
            nn.init.uniform_(norm.weight, 0.5, 1.5)
            nn.init.uniform_(norm.running_var, 0.5, 1.5)
            nn.init.normal_(norm.running_mean)
    return model.eval()


def image(n: int = 3) -> torch.Tensor:
    return torch.randn(n, 3, 8, 8, generator=torch.Generator().manual_seed(1))


def halve(model: nn.Module) -> nn.Module:
    """p = 0.5 in every gate: nothing but zero reaches the sigmoid."""
    with torch.no_grad():
        for parameter in ab.added_parameters(model):
            parameter.zero_()
    return model


def boosted(blocks: int = 2, **options) -> nn.Module:
    return halve(ab.boost(network(blocks), HALF, example=image(1), **options))


def halved(names: tuple[str, ...] = ("1.bn2", "2.bn2"), factor: float = 0.5, blocks: int = 2):
    """The right output: the base network, with these modules' outputs times `factor`."""
    model = network(blocks)
    for name in names:
        model.get_submodule(name).register_forward_hook(lambda m, a, y: y * factor)
    return model(image())


def same(got: torch.Tensor, expected: torch.Tensor) -> None:
    torch.testing.assert_close(got, expected, rtol=1e-4, atol=1e-5)


def gate_vectors(model: nn.Module) -> list[torch.Tensor]:
    """The parameters of each gate, as one vector. An identity start trains some of them first."""
    gates = ab.surgery.attached(model).values()
    return [nn.utils.parameters_to_vector(g.parameters()).detach().clone() for g in gates]


def all_learned(model: nn.Module, before: list[torch.Tensor]) -> bool:
    """Whether each gate has other parameters than `before`."""
    pairs = zip(gate_vectors(model), before, strict=True)
    return all(not torch.equal(new, old) for new, old in pairs)

"""The sites of a network, checked by gates at 0.5, and blocks on maps of any rank."""

# Each network is checked with gates at p = 0.5 against its base with the sites' outputs halved.

import copy

import torch
import torch.nn.functional as F
from torch import nn

import accuracy_booster as ab
from accuracy_booster.surgery import attached
from support.gates import force, halved
from support.networks import randomise

C = 8


def first(output):
    while not isinstance(output, torch.Tensor):
        output = next(iter(output.values())) if isinstance(output, dict) else output[0]
    return output


@torch.no_grad()
def sites_of(model, *inputs, where="residual", **named):
    """The plan's sites, after a check that gates at 0.5 halve each of them once."""
    model = randomise(model, seed=0).eval()
    example = named or inputs
    planned = ab.plan(model, "ab", example=example, where=where)
    boosted = force(ab.boost(copy.deepcopy(model), "ab", example=example, where=where)).eval()
    names = [gate.site.name for gate in planned.gates]
    assert list(attached(boosted)) == sorted(names, key=list(attached(boosted)).index)
    got = first(boosted(*inputs, **named))
    expected = first(halved(copy.deepcopy(model), names)(*inputs, **named))
    assert not torch.allclose(got, first(model(*inputs, **named)), rtol=1e-3)
    torch.testing.assert_close(got, expected, rtol=1e-4, atol=1e-5 * float(expected.abs().max()))
    return [gate.site for gate in planned.gates]


class BlockOfRank(nn.Module):
    """relu(x + b(x)) on [N, C, ...] with `dims` dimensions of space."""

    def __init__(self, dims, channels=C):
        super().__init__()
        norm = (nn.BatchNorm1d, nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d)[dims]

        def layer():
            if dims == 0:
                return nn.Linear(channels, channels)
            return (nn.Conv1d, nn.Conv2d, nn.Conv3d)[dims - 1](channels, channels, 3, padding=1)

        self.b = nn.Sequential(layer(), norm(channels), nn.ReLU(), layer(), norm(channels))

    def forward(self, x):
        return F.relu(x + self.b(x))


class Placeholder(nn.Module):
    def __init__(self):
        super().__init__()
        self.b, self.p1, self.unused = BlockOfRank(2).b, nn.Identity(), nn.Identity()

    def forward(self, x):
        return x + self.p1(self.b(x))


class Takes(nn.Module):
    def __init__(self):
        super().__init__()
        self.block = BlockOfRank(2)


class ByName(Takes):
    def forward(self, *, image, scale=1.0):
        return self.block(image) * scale


class Two(Takes):
    def forward(self, x, y):
        return self.block(x + y)

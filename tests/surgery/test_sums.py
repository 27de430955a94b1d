"""Branches of sums with constants, factors and masks, where a wrong site would be silent."""

from __future__ import annotations

import copy

import pytest
import torch
from support.sites import (
    BlockOfRank,
    C,
    sites_of,
)
from torch import nn

import accuracy_booster as ab
from accuracy_booster.surgery import attach, attached

CHANNELS = 4
IMAGE = torch.zeros(1, 3, 12, 12)
MASK = torch.arange(12) % 2 == 0


class Branch(nn.Module):
    """A residual branch; `scale` halves what it gives without any gate, for the comparison."""

    def __init__(self):
        super().__init__()
        self.f = nn.Sequential(
            nn.Conv2d(CHANNELS, CHANNELS, 3, padding=1),
            nn.BatchNorm2d(CHANNELS),
            nn.ReLU(),
            nn.Conv2d(CHANNELS, CHANNELS, 3, padding=1),
            nn.BatchNorm2d(CHANNELS),
        )
        self.scale = 1.0

    def forward(self, x):
        y = self.f(x)
        return y if self.scale == 1 else y * self.scale


class Net(nn.Module):
    def __init__(self, run):
        super().__init__()
        self.stem = nn.Conv2d(3, CHANNELS, 1)
        self.b = nn.ModuleList(Branch() for _ in range(2))
        self.w = nn.Conv2d(CHANNELS, CHANNELS, 1)
        self.run = run

    def forward(self, x):
        return self.run(self, self.stem(x))


def weight(net, x):
    return torch.sigmoid(net.w(x.mean((2, 3), keepdim=True)))


def functional(net, x):
    parameters = dict(net.b[0].named_parameters())
    return x + torch.func.functional_call(net.b[0], parameters, (x,))


def partly_filled(net, x):
    y = net.b[0](x)
    y[:, :2] = 0
    return x + y


def filled(net, x):
    y = net.b[0](x)
    y[:, :2] = 1
    return x + y


ORDER = torch.tensor([1, 0, 3, 2])
FOUND = {
    "functional_call": functional,
    "a sum that where chooses": lambda n, x: torch.where(MASK, x + n.b[0](x), x),
    "end: where with 0": lambda n, x: x + torch.where(MASK, n.b[0](x), 0.0),
    "end: x.where": lambda n, x: x + n.b[0](x).where(MASK, torch.zeros(1)),
    "end: masked_fill with 0": lambda n, x: x + n.b[0](x).masked_fill(MASK, 0.0),
    "end: zeros written": partly_filled,
    "end: a shuffle": lambda n, x: x + nn.functional.channel_shuffle(n.b[0](x), 2),
    "end: a constant divides": lambda n, x: x + n.b[0](x) / torch.tensor(2.0),
    "shortcut: masked_fill": lambda n, x: x.masked_fill(MASK, 0.0) + n.b[0](x),
    "shortcut: where": lambda n, x: x.where(MASK, torch.zeros(1)) + n.b[0](x),
    "shortcut: index_select": lambda n, x: x.index_select(1, ORDER) + n.b[0](x),
    "shortcut: minus a constant": lambda n, x: (x - 0.1) + n.b[0](x),
    "shortcut: fake quantisation": lambda n, x: (
        torch.fake_quantize_per_tensor_affine(x, 0.1, 0, -128, 127) + n.b[0](x)
    ),
    "addcmul by a constant": lambda n, x: torch.addcmul(x, n.b[0](x), torch.ones(1), value=0.5),
    "lerp by a tensor": lambda n, x: x.lerp(n.b[0](x), torch.full((1, CHANNELS, 1, 1), 0.3)),
    "lerp in place": lambda n, x: x.clone().lerp_(n.b[0](x), 0.3),
    "foreach in place": lambda n, x: in_place(x, n.b[0](x)),
}


def in_place(x, y):
    terms = [x.clone()]
    torch._foreach_add_(terms, [y])
    return terms[0]


def at_half(model: nn.Module, sites: list) -> nn.Module:
    model = copy.deepcopy(model)
    attach(model, "ab", sites)
    for gate in attached(model).values():
        for parameter in gate.parameters():
            parameter.data.zero_()
    return model


@pytest.mark.parametrize("kind", FOUND)
def test_the_branch_is_a_site_and_half_a_gate_is_half_the_branch(kind):
    torch.manual_seed(0)
    model = Net(FOUND[kind]).eval()
    planned = ab.plan(model, "ab", example=IMAGE)
    assert planned.skipped == []
    sites = [gate.site for gate in planned.gates]
    assert [site.name for site in sites] == ["b.0.f.4"]
    x = torch.randn(2, 3, 12, 12)
    with torch.no_grad():
        whole, gated = model(x), at_half(model, sites)(x)
        model.b[0].scale = 0.5
        torch.testing.assert_close(gated, model(x))
        assert (gated - whole).abs().max() > 1e-3  # or the comparison would say nothing


SKIPPED = {
    "end: where with 1": (lambda n, x: x + torch.where(MASK, n.b[0](x), 1.0), "torch.where"),
    "end: where with ones": (
        lambda n, x: x + torch.where(MASK, n.b[0](x), torch.ones(())),
        "torch.where",
    ),
    "end: x.where with ones": (
        lambda n, x: x + n.b[0](x).where(MASK, torch.ones(1)),
        "torch.where",
    ),
    "end: masked_fill with 1": (lambda n, x: x + n.b[0](x).masked_fill(MASK, 1.0), "masked_fill"),
    "end: ones written": (filled, "__setitem__"),
    "end: divides a constant": (lambda n, x: x + torch.div(torch.ones(1), n.b[0](x)), "torch.div"),
    "addcmul: two factors": (
        lambda n, x: torch.addcmul(torch.zeros(1), x, n.b[0](x)),
        "torch.addcmul joins",
    ),
    "addcmul by a map": (
        lambda n, x: torch.addcmul(x, n.b[0](x), weight(n, x)),
        "torch.addcmul joins",
    ),
    "lerp by a map": (lambda n, x: torch.lerp(x, n.b[0](x), weight(n, x)), "torch.lerp joins"),
    "a sum over a cat": (
        lambda n, x: torch.cat([x, n.b[0](x)], 1).unflatten(1, (2, CHANNELS)).sum(1),
        "torch.cat joins",
    ),
    "index_put": (
        lambda n, x: x.index_put((torch.arange(len(x)),), n.b[0](x), accumulate=True),
        "torch.index_put joins",
    ),
}


@pytest.mark.parametrize("kind", SKIPPED)
def test_what_a_gate_could_not_shut_is_no_site_and_is_told(kind):
    run, reason = SKIPPED[kind]
    with pytest.raises(ValueError, match=f"has residual branches, but .*{reason}"):
        ab.plan(Net(run), "ab", example=IMAGE)
    beside = Net(lambda n, x: (y := run(n, x)) + n.b[1](y))
    planned = ab.plan(beside, "ab", example=IMAGE)
    assert [gate.site.name for gate in planned.gates] == ["b.1.f.4"]
    assert len(planned.skipped) == 1
    assert reason in str(planned.skipped[0])


class Flattened(nn.Module):
    """A branch whose map is flattened to [N, C, H W] before the sum."""

    def __init__(self):
        super().__init__()
        self.b = BlockOfRank(2).b

    def forward(self, x):
        return x.flatten(2) + self.b(x).flatten(2)


def test_a_sum_of_flattened_maps():
    (site,) = sites_of(Flattened(), torch.randn(2, C, 4, 5))
    assert (site.name, site.spatial_size) == ("b.4", (4, 5))


def test_an_additive_attention_gate_has_no_residual_branch():
    nets = pytest.importorskip("monai.networks.nets")
    with pytest.raises(ValueError, match="no residual branch"):
        ab.plan(
            nets.AttentionUnet(3, 1, 2, (4, 8, 16), (2, 2)), example=torch.zeros(1, 1, 16, 16, 16)
        )

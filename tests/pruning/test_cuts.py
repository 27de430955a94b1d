"""A pruned network computes what the whole one does with the removed channels zeroed."""

# N batch, C channels, H W space

from __future__ import annotations

import pytest
import torch
from support.gated_networks import images, network
from support.pruned_networks import (
    check_same,
    in_float64,
    macs,
    means_of,
    parameters,
    readers_of,
    with_inputs_zeroed,
    with_outputs_zeroed,
)
from support.strictness import WARNINGS_ARE_ERRORS
from torch import nn

import accuracy_booster as ab
from accuracy_booster.pruning import pruned_channels, pruning_of
from accuracy_booster.surgery import Site, attach, attached

pytestmark = WARNINGS_ARE_ERRORS
# places inside branches: resnet26 and regnet have two in each, shufflenet shuffles channels there
INNER = {
    "resnet8": 3,
    "preact11": 6,
    "wrn10_1": 3,
    "torchvision/resnet18": 8,
    "torchvision/mobilenet_v2": 10,
    "timm/resnet26": 16,
    "timm/regnetx_002": 26,
    "timm/convnext_atto": 12,
}


@pytest.mark.parametrize("name", [*INNER, "shufflenet_g3"])
def test_outputs_compute_what_the_whole_network_does_without_those_channels(name):
    model, x = network(name), images(name, 3)
    small = ab.prune(model, 0.6, gates=means_of(model), example=x)
    kept = pruned_channels(small)
    assert set(kept) == set(attached(model))
    check_same(small(x), with_outputs_zeroed(model, kept)(x))
    assert parameters(small) < parameters(model)
    assert macs(small, x) < macs(model, x)
    for site, gate in attached(small).items():
        assert gate.channels == len(kept[site.removesuffix(".layer")])
        assert all(p.shape[0] == gate.channels for p in gate.parameters())


@pytest.mark.parametrize("name", INNER)
def test_inner_computes_what_the_whole_network_does_without_those_channels(name):
    model, x = network(name), images(name, 3)
    small = ab.prune(model, 0.6, of="inner", gates=means_of(model), example=x)
    kept = pruned_channels(small)
    assert len(kept) == INNER[name]
    ungated = [p for p in pruning_of(small).places if "what reads it has no gate" in p.how]
    assert len(ungated) == len(kept) - min(len(kept), len(attached(model)))
    check_same(small(x), with_inputs_zeroed(model, kept, readers_of(model))(x))
    assert macs(small, x) < macs(model, x)
    for site, gate in attached(model).items():
        for mine, other in zip(attached(small)[site].parameters(), gate.parameters(), strict=True):
            assert torch.equal(mine, other), "the gates stay as they are"


def test_groups_keep_the_same_number_of_channels():
    model, x = network("shufflenet_g3"), images("shufflenet_g3", 3)
    small = ab.prune(model, 0.5, by="magnitude", example=x)
    site = "layer2.1.bn3"
    width = attached(model)[site].channels // 3
    groups = [place // width for place in pruned_channels(small)[site]]
    assert [groups.count(g) for g in range(3)] == [width // 2] * 3
    assert small.layer2[1].conv3.groups == 3


@pytest.mark.parametrize("of", ["outputs", "inner"])
def test_networks_without_gates_are_pruned_by_magnitude(of):
    model, x = network(recipe="none"), images(n=3)
    small = ab.prune(model, 0.5, by="magnitude", of=of, example=x)
    assert len(pruned_channels(small)) == 3
    assert macs(small, x) < macs(model, x)
    with pytest.raises(ValueError, match="the network has none; use by='magnitude'"):
        ab.prune(model, 0.5, gates={}, of=of, example=x)


def test_gates_everywhere_go_along_inside():
    model = ab.create_model("resnet8", num_classes=5)
    model = in_float64(ab.boost(model, "ab", where="conv", example=torch.zeros(1, 3, 12, 12)))
    x = images(n=3)
    small = ab.prune(model, 0.5, by="magnitude", of="inner", example=x)
    kept = pruned_channels(small)
    assert set(kept) == {f"layer{i}.0.conv1" for i in (1, 2, 3)}
    check_same(small(x), with_inputs_zeroed(model, kept, readers_of(model))(x))
    assert attached(small)["layer1.0.bn1"].channels == 8


def test_vectors_and_their_gates():
    class Mlp(nn.Module):
        def __init__(self):
            super().__init__()
            self.stem = nn.Linear(6, 8)
            self.a, self.n, self.act = nn.Linear(8, 12), nn.BatchNorm1d(12), nn.PReLU(12)
            self.b, self.m = nn.Linear(12, 8), nn.BatchNorm1d(8)

        def forward(self, x):
            x = self.stem(x)
            return x + self.m(self.b(self.act(self.n(self.a(x)))))

    model, x = Mlp(), torch.randn(5, 6, dtype=torch.float64)
    with torch.no_grad():
        model.act.weight.uniform_(0.1, 0.9)
    in_float64(attach(model, "ab", [Site("m", 8, ())]))
    small = ab.prune(model, 0.5, by="magnitude", example=x)
    check_same(small(x), with_outputs_zeroed(model, pruned_channels(small))(x))
    inner = ab.prune(model, 0.5, by="magnitude", of="inner", example=x)
    assert inner.act.num_parameters == 6
    check_same(inner(x), with_inputs_zeroed(model, pruned_channels(inner), {"a": "b"})(x))

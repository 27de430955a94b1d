"""Each criterion keeps the channels that its formula scores highest."""

# N batch, C channels, H W space

from __future__ import annotations

import math

import pytest
import torch
from support.gated_networks import images, network
from support.pruned_networks import (
    check_same,
    macs,
    means_of,
    parameters,
    with_outputs_zeroed,
)
from support.strictness import WARNINGS_ARE_ERRORS
from torch import nn

import accuracy_booster as ab
from accuracy_booster.pruning import pruned_channels
from accuracy_booster.pruning.channels import CRITERIA
from accuracy_booster.surgery import attached

pytestmark = WARNINGS_ARE_ERRORS


@pytest.mark.parametrize("of", ["outputs", "inner"])
def test_criteria_have_equal_macs_and_parameters(of):
    model, x = network(), images(n=3)
    networks = [
        ab.prune(model, 0.7, by=by, of=of, gates=means_of(model), example=x) for by in CRITERIA
    ]
    assert len({macs(small, x) for small in networks}) == 1
    assert len({parameters(small) for small in networks}) == 1
    choices = {str(pruned_channels(small)) for small in networks}
    # inside branches the scores by gates are outgoing weights too, and the product may agree
    assert len(choices) == 4 if of == "outputs" else len(choices) >= 3


def test_gates_rank_channels_by_their_mean_weight():
    model, x = network(), images(n=3)
    means = {site: torch.ones(gate.channels) for site, gate in attached(model).items()}
    lowest = {site: torch.randperm(len(m))[: len(m) // 4] for site, m in means.items()}
    for site, places in lowest.items():
        means[site][places] = 0.1
    small = ab.prune(model, 0.75, gates=means, example=x)
    for site, kept in pruned_channels(small).items():
        assert sorted({*range(len(means[site]))} - {*kept}) == sorted(lowest[site].tolist())


class Means:
    def __init__(self, means):
        self.given = means

    def means(self):
        return self.given


def test_gates_may_be_anything_with_means():
    model, x = network(), images(n=3)
    means = means_of(model)
    one, other = (ab.prune(model, 0.5, gates=g, example=x) for g in (means, Means(means)))
    assert pruned_channels(one) == pruned_channels(other)


def test_magnitude_is_that_of_the_filter_with_its_norm():
    model, x = network(), images(n=3)
    small = ab.prune(model, 0.5, by="magnitude", example=x)
    for site, kept in pruned_channels(small).items():
        folded = ab.fold(model, example=x).get_submodule(site.replace("bn2", "conv2")).conv
        norms = folded.weight.flatten(1).norm(dim=1)  # the convolution with its norm inside
        assert sorted(norms.topk(len(kept)).indices.tolist()) == kept


def test_the_product_is_that_of_both():
    model, x = network(), images(n=3)
    site = "layer1.0.bn2"
    norm, conv = model.layer1[0].bn2, model.layer1[0].conv2
    magnitude = conv.weight.flatten(1).norm(dim=1)
    magnitude = magnitude * norm.weight.abs() / (norm.running_var + norm.eps).sqrt()
    means = means_of(model)
    small = ab.prune(model, 0.5, by="gates*magnitude", gates=means, example=x)
    best = (magnitude * means[site]).topk(8).indices.tolist()
    assert pruned_channels(small)[site] == sorted(best)


def test_inner_scores_are_those_of_outgoing_weights():
    model, x = network(), images(n=3)
    block, means = model.layer2[0], means_of(model)
    scale = block.bn2.weight.abs() / (block.bn2.running_var + block.bn2.eps).sqrt()
    taken = block.conv2.weight.square().sum((2, 3)).sqrt() * scale[:, None]
    taken = taken * block.bn1.weight.abs()
    for by, weights in (("magnitude", torch.ones(32)), ("gates", means["layer2.0.bn2"])):
        small = ab.prune(model, 0.5, by=by, of="inner", gates=means, example=x)
        best = (taken * weights[:, None]).norm(dim=0).topk(16).indices.tolist()
        assert pruned_channels(small)["layer2.0.conv1"] == sorted(best)


def test_a_closed_output_makes_its_inner_channel_worthless():
    """A channel that only closed outputs read goes first by gates, and stays by magnitude."""
    model, x = network(), images(n=3)
    block, means = model.layer1[0], means_of(model)
    means["layer1.0.bn2"][:8] = 0
    with torch.no_grad():
        block.conv2.weight[8:, 3] = 0
        block.conv2.weight[:8, 3] = 10
    by = {
        name: ab.prune(model, 0.9, by=name, of="inner", gates=means, example=x)
        for name in ("gates", "magnitude")
    }
    assert 3 not in pruned_channels(by["gates"])["layer1.0.conv1"]
    assert 3 in pruned_channels(by["magnitude"])["layer1.0.conv1"]


def test_seeds_decide_what_chance_keeps():
    model, x = network(), images(n=3)
    kept = [
        pruned_channels(ab.prune(model, 0.5, by="random", seed=seed, example=x))
        for seed in (0, 0, 1)
    ]
    assert kept[0] == kept[1] != kept[2]


def test_mean_weights_must_fit():
    model, x = network(), images(n=3)
    means = means_of(model)
    means["layer1.0.bn2"] = torch.ones(8)
    with pytest.raises(ValueError, match=r"are \[8\], but must be \[16\], one for each channel"):
        ab.prune(model, gates=means, example=x)
    means["layer1.0.bn2"] = torch.full((16,), math.nan)
    with pytest.raises(ValueError, match=r"scores of 'layer1.0.bn2' by 'gates' are not finite"):
        ab.prune(model, gates=means, example=x)
    with pytest.raises(ValueError, match=r"gates= has no mean weights, which by='gates' needs"):
        ab.prune(model, gates={}, of="inner", example=x)


def test_a_gate_of_the_networks_own_is_no_unknown_site():
    model = network()
    model.fc = nn.Sequential(ab.Recalibrate(64, spatial_dims=0), model.fc).double()
    model.eval()
    gates = ab.gates(model, [images(n=8)])
    assert set(gates.means()) == {*attached(model), "fc.0"}
    small = ab.prune(model, 0.5, gates=gates, example=images(n=3))
    x = images(n=3)
    check_same(small(x), with_outputs_zeroed(model, pruned_channels(small))(x))

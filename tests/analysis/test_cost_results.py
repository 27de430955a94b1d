"""The costs of blocks, against the paper's tables."""

# N batch, C channels, H W space

from __future__ import annotations

import json
from dataclasses import asdict

import pytest
import timm
import torch
from support.costs import (
    RESNET50,
    WRN18,
    on_meta,
)
from torch import nn

import accuracy_booster as ab
from accuracy_booster.surgery import attach
from accuracy_booster.surgery.sites import Site

R = 16  # SE's reduction


def one_block(recipe: str, channels: int, batch: int = 1) -> ab.Complexity:
    """Of a network that is nothing but the block, on a 7x7 map."""
    with torch.device("meta"):
        model = nn.Sequential(nn.Identity())
        attach(model, recipe, [Site("0", channels, (7, 7))])
        return ab.complexity(model, (channels, 7, 7), batch_size=batch)


@pytest.mark.parametrize(
    ("name", "recipe", "parameters", "macs"),
    [
        (RESNET50, "ab", 25_572_136, 3_857_988_352),
        (RESNET50, "ab_plus", 45_676_584, 3_878_092_800),
        (WRN18, "ab", 45_622_056, 6_695_710_464),
        (WRN18, "ab_plus", 48_403_496, 6_698_491_904),
    ],
)
def test_block_weights_leave_the_norms_out(name, recipe, parameters, macs):
    cost = ab.complexity(on_meta(name, recipe))
    assert (cost.base.parameters + cost.block_weights, cost.macs) == (parameters, macs)
    channels = sum(block.channels for block in cost.blocks)
    assert cost.extra.parameters == cost.block_weights + 2 * channels


@pytest.mark.parametrize("batch", [1, 32, 256])
@pytest.mark.parametrize("channels", [64, 256, 2048])
@pytest.mark.parametrize(
    ("recipe", "weights", "rtm_paper", "rtm"),
    [
        ("ab", lambda c: c, lambda c, b: 4 * c * (1 + b), lambda c, b: 4 * c * (1 + b)),
        ("ab_plus", lambda c: c * c, lambda c, b: 4 * c * (c + b), lambda c, b: 4 * c * (c + b)),
        *(
            (
                f"ab_g{g}",
                lambda c, g=g: c * c // g,
                lambda c, b, g=g: 4 * (c * c // g + c * b),
                lambda c, b, g=g: 4 * (c * c // g + c * b),
            )
            for g in (4, 16)
        ),
        (
            "se",
            lambda c: 2 * c * c // R,
            lambda c, b: 8 * c * (c + b) // R,
            lambda c, b: 4 * (2 * c * c // R + (c // R + c) * b),
        ),
    ],
)
def test_table_1(recipe, weights, rtm_paper, rtm, channels, batch):
    """SE's second layer gives C outputs; the paper's formula has C / r."""
    (block,) = one_block(recipe, channels, batch).blocks
    assert block.weights == weights(channels)
    assert block.macs == weights(channels) * batch
    assert block.rtm_paper == rtm_paper(channels, batch)
    assert block.rtm == rtm(channels, batch)
    assert (block.site, block.channels, block.spatial_size) == ("0", channels, (7, 7))


@pytest.mark.parametrize(
    ("recipe", "batch", "rtm_paper", "rtm"),
    [
        ("ab", 1, 120_832, 120_832),
        ("ab", 256, 15_526_912, 15_526_912),
        ("se", 1, 10_067_328, None),
        ("se", 256, 11_993_088, 26_492_928),
    ],
)
def test_memory_of_all_blocks_of_resnet50(recipe, batch, rtm_paper, rtm):
    blocks = ab.complexity(on_meta(RESNET50, recipe), batch_size=batch).blocks
    assert sum(block.rtm_paper for block in blocks) == rtm_paper
    if rtm is not None:
        assert sum(block.rtm for block in blocks) == rtm


@pytest.mark.parametrize(
    ("recipe", "depth"), [(None, 0), ("ab", 1), ("ab_plus", 1), ("se", 2), ("design_f", 0)]
)
def test_depth_is_the_layers_of_a_block(recipe, depth):
    cost = ab.complexity(on_meta("resnet56", recipe))
    assert cost.depth == depth
    assert [block.depth for block in cost.blocks] == [depth] * (27 if recipe else 0)


@pytest.mark.parametrize("recipe", [*ab.list_recipes(), "ab_g4"])
@pytest.mark.parametrize("batch", [1, 3])
def test_extra_is_boosted_minus_plain(recipe, batch):
    size = (3, 16, 16)
    plain = ab.complexity(on_meta("resnet8"), size, batch_size=batch)
    boosted = ab.complexity(on_meta("resnet8", recipe, input_size=size), size, batch_size=batch)
    for name, extra in asdict(boosted.extra).items():
        assert getattr(boosted.base, name) == getattr(plain, name), name
        if "rtm" not in name:  # a block's stores its weights only
            assert extra == sum(getattr(block, name) for block in boosted.blocks), name
            assert getattr(boosted, name) == getattr(plain, name) + extra, name
    assert [block.site for block in boosted.blocks] == [f"layer{i}.0.bn2" for i in (1, 2, 3)]
    assert [block.channels for block in boosted.blocks] == [16, 32, 64]
    assert [block.spatial_size for block in boosted.blocks] == [(16, 16), (8, 8), (4, 4)]


def test_a_plain_network_is_its_own_base():
    cost = ab.complexity(on_meta("resnet8"))
    assert not cost.blocks
    assert not any(asdict(cost.extra).values())


def test_where_attention_was_the_base_has_its_own():
    """A replaced SE module is part of the unboosted network, in parameters and in arithmetic."""
    size, model = (3, 64, 64), timm.create_model("seresnet18")
    plain = ab.complexity(model, size)
    ab.boost(model, "ab", where="attention")
    boosted = ab.complexity(model, size)
    assert len(boosted.blocks) == 8
    assert asdict(boosted.base) == {name: getattr(plain, name) for name in asdict(boosted.base)}
    assert boosted.parameters == sum(p.numel() for p in model.parameters()) < plain.parameters


def test_a_cost_is_json():
    cost = ab.complexity(on_meta("resnet8", "ab"))
    found = json.loads(json.dumps(cost.to_dict()))
    assert found["count"]["maps"]["mac"] + found["count"]["vectors"]["mac"] == cost.macs
    assert found["block_weights"] == 16 + 32 + 64
    assert found["extra"]["parameters"] == 3 * (16 + 32 + 64)

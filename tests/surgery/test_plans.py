"""A plan says what boosting adds, as data and as a table."""

# N batch, C channels, H W space

from __future__ import annotations

import json

import pytest
import torch
from support.boosting import (
    EXAMPLE,
    SITES,
    ResidualNet,
    net,
)
from support.sites import (
    BlockOfRank,
    C,
)
from torch import nn

import accuracy_booster as ab
from accuracy_booster.surgery import attached


@pytest.mark.parametrize("recipe", ["ab", "ab_plus", "se", "cbam", "ge_theta_plus"])
@pytest.mark.parametrize("init", ["paper", "identity"])
def test_the_plan_is_what_boost_adds(recipe, init):
    model = net()
    planned = ab.plan(model, recipe, example=EXAMPLE, init=init)
    assert [g.site.name for g in planned.gates] == SITES
    assert [(g.site.channels, g.site.spatial_size) for g in planned.gates] == [
        (16, (16, 16)),
        (32, (8, 8)),
    ]
    before = sum(p.numel() for p in model.parameters())
    assert ab.boost(model, recipe, example=EXAMPLE, init=init) is model
    assert type(model) is ResidualNet
    assert sum(p.numel() for p in model.parameters()) - before == planned.parameters > 0
    for row in planned.gates:
        gate = attached(model)[row.site.name]
        assert sum(p.numel() for p in gate.parameters()) == row.parameters
    assert sum(p.numel() for p in ab.added_parameters(model)) == planned.parameters
    text = str(planned)
    for row in planned.gates:
        line = next(line for line in text.splitlines() if line.startswith(row.site.name))
        height, width = row.site.spatial_size
        cells = [str(row.site.channels), f"{height}x{width}", f"{row.parameters:,}", row.reason]
        assert all(cell in line for cell in cells)
    assert f"{planned.parameters:,}" in text.splitlines()[-1]
    data = json.loads(json.dumps(planned.to_dict()))
    assert data["parameters"] == planned.parameters


def test_a_plan_prints_maps_of_every_rank():
    for size, text in (((), "-"), ((9,), "9"), ((4, 5, 6), "4x5x6")):
        planned = ab.plan(nn.Sequential(BlockOfRank(len(size))), example=torch.zeros(1, C, *size))
        assert planned.table()[1][0][:3] == ["0.b.4", str(C), text]
        assert planned.to_dict()["gates"][0]["spatial_size"] == size

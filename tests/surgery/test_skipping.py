"""`skip=` leaves sites out: a module's own, those within it, and those of a pattern."""

from __future__ import annotations

import pytest
import torch
from support.boosting import EXAMPLE, assert_same_state, net, snapshot

import accuracy_booster as ab
from accuracy_booster.surgery import attached

ALL = ["layer1.0.bn2", "layer2.0.bn2", "layer3.0.bn2"]  # of resnet8


@pytest.mark.parametrize(
    ("skip", "left"),
    [
        (None, ALL),
        ("", ALL),
        ("layer1", ALL[1:]),
        ("layer1.0.bn2", ALL[1:]),
        (["layer1", "layer3.0"], ["layer2.0.bn2"]),
        ("layer1, layer3.0", ["layer2.0.bn2"]),
        ("layer[12]", ALL[2:]),
        ("*2.0.bn2", ["layer1.0.bn2", "layer3.0.bn2"]),
        ("layer1.0.conv1", ALL),  # it holds no site
    ],
)
def test_sites_are_left_out(skip, left):
    model = ab.create_model("resnet8", block="ab", skip=skip)
    assert list(attached(model)) == left
    planned = ab.plan(ab.create_model("resnet8"), skip=skip)
    assert [gate.site.name for gate in planned.gates] == left
    out = [name for name in ALL if name not in left]
    assert [line.partition(",")[0] for line in planned.skipped] == out


def test_a_name_does_not_cover_a_longer_one():
    model = torch.nn.Sequential()
    for name in ("layer1", "layer10"):
        model.add_module(name, torch.nn.Conv2d(3, 3, 3, padding=1))
    ab.boost(model, "ab", example=torch.zeros(1, 3, 8, 8), where="conv", skip="layer1")
    assert list(attached(model)) == ["layer10"]


@pytest.mark.parametrize(
    ("skip", "told"),
    [
        ("layers.0.bn22", r"unknown module 'layers\.0\.bn22'.*nearest: .*layers\.0\.bn2"),
        ("nothing*", "unknown module 'nothing"),
        ("*", "leaves out every site of"),
        (3, "must be names"),
    ],
)
def test_what_cannot_be_skipped_is_told_and_changes_nothing(skip, told):
    model = net()
    before = snapshot(model)
    with pytest.raises(ValueError, match=told):
        ab.boost(model, "ab", example=EXAMPLE, skip=skip)
    assert_same_state(snapshot(model), before)

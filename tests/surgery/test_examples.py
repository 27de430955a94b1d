"""The input that a network is run on when nobody gives an example."""

# N batch, C channels, H W space

from __future__ import annotations

import pytest
import timm
from support.sites import (
    BlockOfRank,
    C,
)
from torch import nn

import accuracy_booster as ab
from accuracy_booster.surgery.examples import infer_examples


def test_the_example_comes_from_the_models_configuration():
    model = timm.create_model("test_resnet", num_classes=3)  # 160 x 160
    size = model.default_cfg["input_size"]
    assert ab.plan(model, "ab").gates[0].site.spatial_size == (size[1] // 4, size[2] // 4)
    grey = timm.create_model("test_resnet", num_classes=3, in_chans=1)
    assert ab.plan(grey, "ab").gates


@pytest.mark.parametrize("size", [(), (1024,), (32, 64, 64)], ids=str)
def test_the_example_has_the_rank_of_the_first_layer(size):
    model = nn.Sequential(BlockOfRank(len(size)), BlockOfRank(len(size)))
    assert [g.site.spatial_size for g in ab.plan(model).gates] == [size, size]
    assert infer_examples(model)[0].shape == (1, C, *size)


def test_a_larger_example_is_tried_where_a_network_shrinks_its_maps():
    """The keyword spotter M5 takes 16,000 samples of audio."""
    model = nn.Sequential(
        nn.Conv1d(1, C, 80, 16), nn.MaxPool1d(4), nn.MaxPool1d(64), BlockOfRank(1)
    )
    assert [g.site.name for g in ab.plan(model).gates] == ["3.b.4"]

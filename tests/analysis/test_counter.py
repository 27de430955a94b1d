"""Counts on maps with 0 to 3 dimensions of space."""

from __future__ import annotations

import pytest
import torch
from support.ranks import (
    SPACES,
    boosted,
)
from torch import nn

from accuracy_booster.analysis import complexity

pytestmark = pytest.mark.filterwarnings("ignore:the batch norm of the gate")


@pytest.fixture(autouse=True)
def _seed():
    torch.manual_seed(0)


@pytest.mark.parametrize("dims", SPACES)
def test_counts_on_every_rank(dims):
    """By hand: layers 8 * 8 * kernel per position, a gate of AB 8 multiply-adds."""
    net, _ = boosted(dims, 3)
    found = complexity(net, (8, *SPACES[dims]), batch_size=3)
    positions = torch.Size(SPACES[dims]).numel()
    layers = 4 * 8 * 8 * 3**dims * positions
    assert (found.base.macs, found.extra.macs) == (3 * layers, 3 * 2 * 8)
    assert [b.spatial_size for b in found.blocks] == [SPACES[dims]] * 2
    assert found.input_size == (8, *SPACES[dims])


POOLS = {
    1: [nn.MaxPool1d(2), nn.AvgPool1d(2), nn.AdaptiveAvgPool1d(1), nn.AdaptiveMaxPool1d(1)],
    3: [nn.MaxPool3d(2), nn.AvgPool3d(2), nn.AdaptiveAvgPool3d(1), nn.AdaptiveMaxPool3d(1)],
}
FREE = {
    1: [
        nn.Upsample(scale_factor=2),
        nn.ReflectionPad1d(1),
        nn.ReplicationPad1d(1),
        nn.ZeroPad1d(1),
    ],
    3: [
        nn.Upsample(scale_factor=2),
        nn.ReflectionPad3d(1),
        nn.ReplicationPad3d(1),
        nn.ZeroPad3d(1),
    ],
}


@pytest.mark.parametrize("device", ["cpu", "meta"])
@pytest.mark.parametrize("dims", POOLS)
def test_pooling_counts_what_it_reads_and_padding_nothing(dims, device):
    size = (3, *[4] * dims)
    for kind, counts in ((POOLS, 1), (FREE, 0)):
        for layer in kind[dims]:
            net = nn.Sequential(layer)
            found = complexity(net.to(device), size)
            assert found.flops == counts * 3 * 4**dims, layer
            assert not found.uncounted


@pytest.mark.parametrize("name", ["r3d_18", "mc3_18", "r2plus1d_18"])
def test_video_networks_count_as_torchvision_publishes(name):
    from torchvision.models import get_model_weights, video

    weights = get_model_weights(name).DEFAULT
    with torch.device("meta"):
        model = getattr(video, name)()
    found = complexity(model, (3, 16, 112, 112))
    assert found.parameters == weights.meta["num_params"]
    assert found.macs / 1e9 == pytest.approx(weights.meta["_ops"], abs=1e-3)

"""The dimension that holds the channels of a map is found, or said to be unclear."""

# Each network is checked with gates at p = 0.5 against its base with the sites' outputs halved.

import pytest
import torch
import torch.nn.functional as F
from support.sites import (
    C,
    sites_of,
)
from torch import nn

import accuracy_booster as ab


class ConvNeXt1d(nn.Module):
    """A block whose linear layers read [N, L, C] and whose sum is of [N, C, L] (audio)."""

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv1d(C, C, 7, padding=3, groups=C)
        self.norm = nn.LayerNorm(C)
        self.one, self.two = nn.Linear(C, 2 * C), nn.Linear(2 * C, C)

    def forward(self, x):
        y = self.norm(self.conv(x).transpose(1, 2))
        return x + self.two(F.gelu(self.one(y))).transpose(1, 2)


def test_a_map_of_one_dimension_whose_last_layer_has_channels_last():
    (site,) = sites_of(ConvNeXt1d(), torch.randn(2, C, 9))
    assert (site.name, site.channels, site.spatial_size, site.layout) == ("two", C, (9,), "NHWC")


def test_a_norm_over_channels_and_space_does_not_say_where_the_channels_are():
    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.b = nn.Sequential(
                nn.Conv2d(C, C, 3, padding=1),
                nn.ReLU(),
                nn.Conv2d(C, C, 1),
                nn.LayerNorm((C, 6, 6)),
            )

        def forward(self, x):
            return x + self.b(x)

    (site,) = sites_of(Net(), torch.randn(2, C, 6, 6))
    assert (site.name, site.channels, site.layout) == ("b.3", C, "NCHW")


@pytest.mark.parametrize("where", ["residual", "conv"])
def test_a_map_without_a_batch_has_no_site(where):
    """[C, H, W] must not be taken for [N, C, L]."""
    model = ConvOnly()
    with pytest.raises(ValueError, match=r"unclear which dimension|no convolution"):
        ab.plan(model, example=torch.zeros(C, 6, 7), where=where)
    assert len(ab.plan(model, example=torch.zeros(1, C, 6, 7), where=where).gates) >= 1


class ConvOnly(nn.Module):
    def __init__(self):
        super().__init__()
        self.b = nn.Sequential(nn.Conv2d(C, C, 3, 1, 1), nn.ReLU(), nn.Conv2d(C, C, 3, 1, 1))

    def forward(self, x):
        return x + self.b(x)

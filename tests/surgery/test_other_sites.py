"""Sites after convolutions and in place of attention modules."""

# N batch, C channels, H W space

from __future__ import annotations

import pytest
import torch
import torchvision
from support.sites import (
    C,
    sites_of,
)
from torch import nn

import accuracy_booster as ab
from accuracy_booster.surgery import attached


def test_conv_finds_the_eight_convolutions_of_vgg11():
    for build, last in (("vgg11", nn.Conv2d), ("vgg11_bn", nn.BatchNorm2d)):
        with torch.device("meta"):
            model = torchvision.models.get_model(build, weights=None, init_weights=False)
        convs = [n for n, m in model.named_modules() if isinstance(m, last)]
        ab.boost(model, "ab", where="conv")
        assert list(attached(model)) == convs
        assert len(convs) == 8
        assert {p.device.type for p in ab.added_parameters(model)} == {"meta"}


class SqueezeExcite1d(nn.Module):
    def __init__(self):
        super().__init__()
        self.fc = nn.Conv1d(C, C, 1)

    def forward(self, x):
        return x * torch.sigmoid(self.fc(x.mean(-1, keepdim=True)))


def test_other_kinds_of_sites_on_maps_of_one_dimension():
    model = nn.Sequential(nn.Conv1d(3, C, 3), nn.BatchNorm1d(C), nn.ReLU(), SqueezeExcite1d())
    with pytest.warns(UserWarning, match="1 attention module"):
        (site,) = sites_of(model, torch.randn(2, 3, 9), where="conv")
    assert (site.name, site.spatial_size) == ("1", (7,))
    planned = ab.plan(model, "se", example=torch.zeros(1, 3, 9), where="attention")
    assert [(g.site.name, g.site.spatial_size) for g in planned.gates] == [("3", (7,))]
    x = torch.randn(2, 3, 9)
    before = model(x)
    boosted = ab.boost(model, "se", example=x, where="attention")
    assert boosted(x).shape == before.shape
    torch.testing.assert_close(ab.unboost(boosted)(x), before)

"""A sum that joins two resolutions is no residual sum; a residual block that upsamples is one."""

# Each network is checked with gates at p = 0.5 against its base with the sites' outputs halved.

import pytest
import torch
import torch.nn.functional as F
from support.sites import (
    BlockOfRank,
    C,
    sites_of,
)
from torch import nn

import accuracy_booster as ab


class Up(nn.Module):
    """A long sum: x + up(down(x)), the map brought back to x's size in one of several ways."""

    def __init__(self, way, after=()):
        super().__init__()
        self.down = nn.Sequential(nn.Conv2d(C, C, 3, 2, 1), nn.ReLU())
        ways = {
            "interpolate": [nn.Conv2d(C, C, 3, padding=1), nn.Upsample(scale_factor=2)],
            "pixel_shuffle": [nn.Conv2d(C, 4 * C, 1), nn.PixelShuffle(2)],
            "by hand": [nn.Conv2d(C, 4 * C, 1), Shuffle()],
            "repeat": [nn.Conv2d(C, C, 1), Repeat()],
            "transposed": [nn.ConvTranspose2d(C, C, 2, 2)],
            "transposed 4": [nn.ConvTranspose2d(C, C, 4, 2, 1)],
        }
        self.up = nn.Sequential(*ways[way], *after)

    def forward(self, x):
        return x + self.up(self.down(x))


class Shuffle(nn.Module):
    def forward(self, x):
        n, c, h, w = x.shape
        x = x.view(n, c // 4, 2, 2, h, w).permute(0, 1, 4, 2, 5, 3)
        return x.reshape(n, c // 4, 2 * h, 2 * w)


class Repeat(nn.Module):
    def forward(self, x):
        return x.repeat_interleave(2, 2).repeat_interleave(2, 3)


WAYS = ["interpolate", "pixel_shuffle", "by hand", "repeat", "transposed", "transposed 4"]


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("after", ["nothing", "norm and ReLU", "1x1"])
def test_a_sum_of_two_resolutions_is_no_residual_branch(way, after):
    steps = {
        "nothing": [],
        "norm and ReLU": [nn.BatchNorm2d(C), nn.ReLU()],
        "1x1": [nn.BatchNorm2d(C), nn.ReLU(), nn.Conv2d(C, C, 1), nn.BatchNorm2d(C), nn.ReLU()],
    }
    with pytest.raises(ValueError, match="no residual branch"):
        ab.plan(Up(way, steps[after]), example=torch.zeros(1, C, 8, 8))


@pytest.mark.parametrize("way", WAYS)
def test_a_branch_that_goes_on_at_its_forks_resolution_is_one(way):
    (site,) = sites_of(Up(way, [nn.Conv2d(C, C, 3, padding=1)]), torch.randn(2, C, 8, 8))
    assert site.name == ("up.1" if way.startswith("transposed") else "up.2")


@pytest.mark.parametrize("way", WAYS)
def test_a_residual_block_that_upsamples_has_a_site(way):
    """The shortcut is upsampled too."""

    class Net(Up):
        def forward(self, x):
            return F.interpolate(x, scale_factor=2) + self.up(self.same(x))

    model = Net(way)
    model.same = nn.Sequential(nn.Conv2d(C, C, 3, padding=1), nn.ReLU())
    try:
        (site,) = sites_of(model, torch.randn(2, C, 6, 6))
    except ValueError as e:
        assert way in ("by hand", "repeat")
        assert "no place for a gate" in str(e)  # noqa: PT017
    else:
        assert site.name in ("up.0", "up.1")


def test_a_transposed_convolution_that_keeps_the_size_is_a_layer():
    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.b = nn.Sequential(*BlockOfRank(2).b[:3], nn.ConvTranspose2d(C, C, 3, 1, 1))

        def forward(self, x):
            return x + self.b(x)

    (site,) = sites_of(Net(), torch.randn(2, C, 6, 6))
    assert site.name == "b.3"


def test_linknet_has_the_sites_of_its_encoder():
    smp = pytest.importorskip("segmentation_models_pytorch")
    sites = sites_of(smp.Linknet("resnet18", encoder_weights=None), torch.randn(1, 3, 64, 64))
    assert [site.name for site in sites] == [
        f"encoder.layer{i}.{j}.bn2" for i in (1, 2, 3, 4) for j in (0, 1)
    ]

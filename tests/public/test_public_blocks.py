"""Blocks that differ between public implementations.

Each is compared with code that is not ours, given the same weights, or with the formula of its
paper where no package has it.
"""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn

import accuracy_booster as ab


def maps(channels: int, height: int = 9, width: int = 7) -> torch.Tensor:
    """Random maps whose channels differ in mean, and whose maximum is not their mean."""
    torch.manual_seed(channels)
    x = torch.randn(3, channels, height, width)
    return x + torch.randn(1, channels, 1, 1)


def same(got: torch.Tensor, expected: torch.Tensor) -> None:
    torch.testing.assert_close(got, expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(
    ("channels", "kernel"), [(16, 3), (64, 3), (128, 5), (256, 5), (512, 5), (1024, 5), (2048, 7)]
)
def test_ecas_width(channels, kernel):
    """ECANet#24, ECANet#46: the paper's formula gives 3, 5, 5, 5 in a ResNet, its code 3 always.

    |log2(C) + 1| / 2, cut off, and one more where that is even (its figure 3).
    """
    t = int(abs(math.log2(channels) + 1) / 2)
    assert kernel == (t if t % 2 else t + 1)
    weight = next(p for p in ab.Recalibrate(channels, "eca").parameters() if p.ndim >= 2)
    assert weight.numel() == weight.shape[-1] == kernel


@pytest.mark.parametrize("channels", [16, 100, 512])
def test_eca_of_timm(channels):
    """timm#125: the same kernel and, with its weights, the same output; no bias."""
    timm_layers = pytest.importorskip("timm.layers")
    theirs = timm_layers.EcaModule(channels)
    ours = ab.Recalibrate(channels, "eca")
    (weight,) = [p for p in ours.parameters() if p.requires_grad]
    with torch.no_grad():
        nn.init.normal_(theirs.conv.weight)
        weight.copy_(theirs.conv.weight.reshape(weight.shape))
        same(ours(maps(channels)), theirs(maps(channels)))


@torch.no_grad()
@pytest.mark.parametrize(("channels", "hidden"), [(64, 4), (40, 2), (8, 1)])
def test_ses_hidden_width(channels, hidden):
    """senet.pytorch#13, timm#260: C // 16, at least 1; not 16, and not rounded up to 8."""
    from torchvision.ops import SqueezeExcitation

    ours = ab.Recalibrate(channels, "se")
    theirs = SqueezeExcitation(channels, hidden)
    state = list(theirs.state_dict().values())
    mine = list(ours.parameters())
    assert [p.numel() for p in mine] == [p.numel() for p in state]
    for p, value in zip(mine, state, strict=True):
        nn.init.normal_(value, std=0.5)
        p.copy_(value.reshape(p.shape))
    same(ours(maps(channels)), theirs(maps(channels)))


@torch.no_grad()
def test_cbams_channel_gate():
    """darknet#8419: one perceptron for mean and maximum, the sum before the sigmoid."""
    timm_layers = pytest.importorskip("timm.layers.cbam")
    ours = ab.Recalibrate(32, "gap + gmp | bottleneck(16, bias=false) | sigmoid")
    theirs = timm_layers.ChannelAttn(32, rd_ratio=1 / 16, rd_divisor=1)
    mine, state = list(ours.parameters()), list(theirs.state_dict().values())
    assert [p.numel() for p in mine] == [p.numel() for p in state]
    for p, value in zip(mine, state, strict=True):
        nn.init.normal_(value)
        p.copy_(value.reshape(p.shape))
    same(ours(maps(32)), theirs(maps(32)))


@torch.no_grad()
def test_cbams_spatial_gate_has_a_sigmoid():
    """Peachypie98/CBAM#2: the spatial factor is in (0, 1) and one for all channels."""
    ours = ab.Recalibrate(6, "channel_pool | conv2d(7) | bn | sigmoid").eval()
    x = maps(6)
    factor = ours(x) / x
    assert factor.min() > 0
    assert factor.max() < 1
    assert factor.std((2, 3)).min() > 1e-3  # it differs between positions
    same(factor, factor[:, :1].expand_as(factor))


@torch.no_grad()
def test_cbam_weighs_channels_before_space():
    """NAM#2: the spatial gate sees what the channel gate left, and the order matters."""
    block = ab.Recalibrate(32, "cbam").eval()
    for p in block.parameters():
        nn.init.normal_(p)
    x = maps(32)
    same(block(x), block[1](block[0](x)))
    assert (block(x) - block[0](block[1](x))).abs().max() > 1e-3


@torch.no_grad()
@pytest.mark.parametrize("extent", [2, 4])
@pytest.mark.parametrize(("height", "width"), [(8, 8), (9, 7), (5, 12)])
def test_gather_excite_without_parameters(extent, height, width):
    """timm's gather_excite.py: windows of 2e - 1 that count no padding, nearest neighbours back."""
    timm_layers = pytest.importorskip("timm.layers")
    theirs = timm_layers.GatherExcite(6, extent=extent, use_mlp=False)
    ours = ab.Recalibrate(6, f"gather({extent}) | sigmoid")
    x = maps(6, height, width)
    same(ours(x), theirs(x))


@torch.no_grad()
@pytest.mark.parametrize("extent", [2, 4])
@pytest.mark.parametrize(("height", "width"), [(8, 8), (9, 7)])
def test_gather_excite_with_parameters(extent, height, width):
    """The same with depthwise convolutions, their norms, and a ReLU between them only.

    timm's class raises a TypeError for `extra_params=True`, so the layers are built here.
    """
    steps: list[nn.Module] = []
    for _ in range(int(math.log2(extent))):
        steps += [nn.Conv2d(6, 6, 3, 2, 1, groups=6, bias=False), nn.BatchNorm2d(6), nn.ReLU()]
    theirs = nn.Sequential(*steps[:-1]).eval()
    ours = ab.Recalibrate(6, f"gather({extent}, learned=true) | sigmoid").eval()
    mine = [v for v in ours.state_dict().values() if v.dtype.is_floating_point]
    state = [v for v in theirs.state_dict().values() if v.dtype.is_floating_point]
    assert [p.numel() for p in mine] == [p.numel() for p in state]
    for p, value in zip(mine, state, strict=True):
        nn.init.uniform_(value, 0.5, 1.5)
        p.copy_(value.reshape(p.shape))
    x = maps(6, height, width)
    size = (height, width)
    same(ours(x), x * nn.functional.interpolate(theirs(x), size=size, mode="nearest").sigmoid())


@torch.no_grad()
def test_gather_excite_over_the_whole_map():
    """The same for the global extent, in the simplest form: the sigmoid of the mean."""
    timm_layers = pytest.importorskip("timm.layers")
    x = maps(6)
    same(
        ab.Recalibrate(6, "ge_theta_minus")(x),
        timm_layers.GatherExcite(6, extent=0, use_mlp=False)(x),
    )

"""Widths of the layers of SE and ECA."""

# N batch, C channels, H W space

from __future__ import annotations

import pytest
import timm.layers
import torch
from support.blocks import (
    block,
)

pytestmark = pytest.mark.filterwarnings("error")


@pytest.mark.parametrize("channels", [8, 16, 24, 40, 100, 256])
def test_se_width_is_floored(channels):
    hidden = max(1, channels // 16)
    ours, theirs = block("se", channels), timm.layers.SqueezeExcite(channels, rd_channels=hidden)
    assert [p.numel() for p in ours.parameters()] == [p.numel() for p in theirs.parameters()]
    y = ours(torch.randn(2, channels, 3, 3, dtype=torch.float64))
    assert y.isfinite().all()


@pytest.mark.parametrize("channels", [1, 2, 8, 16, 32, 48, 64, 128, 256, 512, 1024, 2048])
def test_eca_width_is_timms(channels):
    ours, theirs = block("eca", channels), timm.layers.EcaModule(channels=channels)
    assert [p.numel() for p in ours.parameters()] == [p.numel() for p in theirs.parameters()]

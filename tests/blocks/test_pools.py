"""Descriptors of 16-bit maps are not rounded, and gathers in three dimensions."""

# N batch, C channels, H W space

from __future__ import annotations

import copy

import pytest
import torch
from support.blocks import (
    block,
)

import accuracy_booster as ab

pytestmark = pytest.mark.filterwarnings("error")


@pytest.mark.parametrize("text", ["ab", "gmp | bn | sigmoid", "cbam", "ge_theta", "design_h_bn"])
def test_descriptors_leave_16_bits(text):
    """[N, C] values are few: they and their batch statistics are float32 under autocast."""
    m = block(text, dtype=torch.float32)
    x = torch.randn(3, 32, 5, 7)
    for given in (x, x.half()):
        with torch.autocast("cpu", dtype=torch.float16):
            descriptors = m[0].describe(given)
            weights = m[0].weigh(descriptors)
        assert {d.shape for d in descriptors} == {(3, 32)}
        assert {d.dtype for d in descriptors} == {torch.float32}
        assert weights.dtype == torch.float32


@pytest.mark.parametrize("text", ["ab", "ab_plus", "ab_g4", "design_f"])
def test_the_descriptor_of_16_bit_maps_is_not_rounded(text):
    """Mean 4, spread 0.01: one unit of float16 at 4 is 0.004, half of the spread."""
    m = block(text, 32, (8, 8), torch.float32).train()
    offsets = 4 + 0.01 * torch.randn(16, 32, 1, 1)
    x = (offsets + 0.05 * torch.randn(16, 32, 8, 8)).half()  # from here on, x is exact

    def gate(module, descriptor):
        return module[0].weigh([descriptor])

    exact_mean = x.double().mean((2, 3))
    exact = gate(copy.deepcopy(m).double(), exact_mean)
    rounded = gate(copy.deepcopy(m).double(), exact_mean.half().double())
    harm = (rounded - exact).abs().max()
    assert harm > 0.02  # else this test shows nothing
    ours = gate(copy.deepcopy(m), m[0].describe(x)[0])
    assert (ours - exact).abs().max() < harm / 20
    for autocast in (False, True):
        with torch.autocast("cpu", dtype=torch.float16, enabled=autocast):
            y = copy.deepcopy(m)(x)
        assert y.dtype == torch.float16
        p = (y.double() / x.double()).mean((2, 3))  # y is rounded, the mean of y / x hardly
        assert (p - exact).abs().max() < harm / 20


def test_the_gather_in_three_dimensions_is_the_mean_over_windows():
    gather = ab.Recalibrate(2, "gather(2) | sigmoid", spatial_dims=3)[0].gather
    for size in ((3, 4, 2), (7, 6, 5)):
        x = torch.randn(2, 2, *size)
        expected = torch.stack(
            [
                x[:, :, max(d - 1, 0) : d + 2, max(h - 1, 0) : h + 2, max(w - 1, 0) : w + 2].mean(
                    (2, 3, 4)
                )
                for d in range(0, size[0], 2)
                for h in range(0, size[1], 2)
                for w in range(0, size[2], 2)
            ],
            2,
        )
        torch.testing.assert_close(gather(x).flatten(2), expected)

"""Sums over the taps of convolutions."""

from __future__ import annotations

import pytest
import torch
from support.ranks import (
    CLOSE,
)
from torch import nn

pytestmark = pytest.mark.filterwarnings("ignore:the batch norm of the gate")


@pytest.fixture(autouse=True)
def _seed():
    torch.manual_seed(0)


def test_tap_sums_of_three_dimensions_are_those_of_the_convolution():
    from accuracy_booster.ops.pooled_conv import pooled_conv

    for options in ({"padding": 2, "dilation": 2}, {"padding": (0, 1, 3), "groups": 2}, {}):
        conv = nn.Conv3d(4, 6, (3, 2, 5), **options).double()
        h = torch.randn(2, 4, 7, 6, 9, dtype=torch.float64)
        torch.testing.assert_close(pooled_conv(h, conv), conv(h).mean((2, 3, 4)), **CLOSE)

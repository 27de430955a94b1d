"""The mean of a convolution's output from its input, against the convolution itself."""

# N batch, C channels, H W space

from __future__ import annotations

import pytest
import torch
from support.strictness import WARNINGS_ARE_ERRORS
from torch import nn

from accuracy_booster.ops.pooled_conv import has_pooled_form, pooled_conv

pytestmark = WARNINGS_ARE_ERRORS


CLOSE = {"rtol": 1e-10, "atol": 1e-11}


@pytest.mark.parametrize("kernel", [1, 2, 3, 5, (3, 1), (1, 7), (4, 3)], ids=str)
@pytest.mark.parametrize("padding", [0, 1, 2, 3, (0, 2), (3, 1)], ids=str)
def test_the_mean_of_a_convolution_from_its_input(kernel, padding):
    """Against the convolution itself, over dilations, groups, biases and sizes of the map."""
    ran = 0
    for dilation in (1, 2, (1, 3)):
        for groups, bias in ((1, False), (2, True), (4, False), (4, True)):
            conv = nn.Conv2d(
                *(4, 8, kernel),
                padding=padding,
                dilation=dilation,
                groups=groups,
                bias=bias,
                dtype=torch.float64,
            )
            assert has_pooled_form(conv)
            for side in ((1, 1), (2, 3), (7, 5), (4, 9)):
                h = torch.randn(2, 4, *side, dtype=torch.float64, requires_grad=True)
                reach = [
                    side[i] + 2 * conv.padding[i] - conv.dilation[i] * (conv.kernel_size[i] - 1)
                    for i in (0, 1)
                ]
                if min(reach) < 1:
                    continue
                ran += 1
                expected, found = conv(h).mean((2, 3)), pooled_conv(h, conv)
                torch.testing.assert_close(found, expected, **CLOSE)
                grad = torch.randn_like(found)
                leaves = [h, *conv.parameters()]
                for a, b in zip(
                    torch.autograd.grad(found, leaves, grad),
                    torch.autograd.grad(expected, leaves, grad),
                    strict=True,
                ):
                    torch.testing.assert_close(a, b, **CLOSE)
    assert ran


@pytest.mark.parametrize("stride", [1, 2, 3, (2, 1), (1, 4)], ids=str)
@pytest.mark.parametrize("groups", [1, 2])
def test_the_mean_of_a_strided_pointwise_convolution(stride, groups):
    conv = nn.Conv2d(4, 6, 1, stride=stride, groups=groups, dtype=torch.float64)
    assert has_pooled_form(conv)
    for side in ((1, 1), (5, 4), (2, 7)):
        h = torch.randn(3, 4, *side, dtype=torch.float64)
        torch.testing.assert_close(pooled_conv(h, conv), conv(h).mean((2, 3)), **CLOSE)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_the_pooled_mean_of_16_bits_is_float32(dtype):
    conv = nn.Conv2d(4, 6, 3, padding=1)
    h = torch.randn(2, 4, 9, 9).to(dtype)
    found = pooled_conv(h, conv)
    assert found.dtype == torch.float32
    torch.testing.assert_close(found, conv(h.float()).mean((2, 3)), rtol=1e-5, atol=1e-5)


def test_tap_sums_of_three_dimensions_are_those_of_the_convolution():
    for options in ({"padding": 2, "dilation": 2}, {"padding": (0, 1, 3), "groups": 2}, {}):
        conv = nn.Conv3d(4, 6, (3, 2, 5), **options).double()
        h = torch.randn(2, 4, 7, 6, 9, dtype=torch.float64)
        torch.testing.assert_close(pooled_conv(h, conv), conv(h).mean((2, 3, 4)), **CLOSE)

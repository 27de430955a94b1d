"""The reduction and the passes in plain torch, against their formulas in float64."""

# N batch, C channels, H W space

from __future__ import annotations

import math

import pytest
import torch
from support.strictness import WARNINGS_ARE_ERRORS

from accuracy_booster.ops import affine_reference

pytestmark = WARNINGS_ARE_ERRORS


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_moments_are_those_of_each_sample_and_channel(dtype):
    z = (50 + torch.randn(3, 4, 7, 5)).to(dtype)
    mean, var = affine_reference.sample_moments(z)
    assert mean.dtype == var.dtype == torch.float32
    exact = z.double()
    torch.testing.assert_close(mean.double(), exact.mean((2, 3)), rtol=1e-6, atol=1e-6)
    torch.testing.assert_close(
        var.double(), exact.var((2, 3), correction=0), rtol=1e-5, atol=1e-6 * math.sqrt(35)
    )


def test_maps_without_space():
    """[N, C] is its own value per sample and channel."""
    z, mean, scale, shift, grad = (torch.randn(4, 3, dtype=torch.float64) for _ in range(5))
    out = affine_reference.affine(z, mean, scale, shift, None, True)
    torch.testing.assert_close(out, ((z - mean) * scale + shift).relu())
    found = affine_reference.affine_grads(grad, out, z, mean)
    masked = grad * (out > 0)
    torch.testing.assert_close(found, (masked, masked * (z - mean), masked))


def test_a_residual_of_another_type_is_added_in_the_wider_type():
    z = torch.full((1, 1, 1, 1), 1.0, dtype=torch.bfloat16)
    one, residual = torch.ones(1, 1), torch.full((1, 1, 1, 1), 2.0**-8, dtype=torch.float64)
    out = affine_reference.affine(z, None, one, torch.full((1, 1), 2.0**-8), residual, False)
    assert out.dtype == torch.bfloat16
    assert out.item() == 1 + 2.0**-7  # in bfloat16 each of the two terms would round away


@pytest.mark.parametrize("given", [(True, True), (True, False), (False, True)])
def test_the_gradient_of_the_input_without_a_gradient_from_the_pointwise_pass(given):
    grad, z = (torch.randn(2, 3, 4, 5, dtype=torch.float64) for _ in range(2))
    scale, mean, slope, offset = (torch.randn(2, 3, dtype=torch.float64) for _ in range(4))
    first = grad * scale[:, :, None, None] if all(given) else 0
    a, b = (v if there else None for v, there in zip((grad, scale), given, strict=True))
    found = affine_reference.input_grad(a, b, z, mean, slope, offset)
    mean, slope, offset = (v[:, :, None, None] for v in (mean, slope, offset))
    torch.testing.assert_close(found, first + (z - mean) * slope + offset)

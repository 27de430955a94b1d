"""The reduction and the pointwise pass in plain torch, against float64."""

# N batch, C channels, H W space

from __future__ import annotations

import math

import pytest
import torch

from accuracy_booster.ops import affine, affine_reference

pytestmark = [
    pytest.mark.filterwarnings("error"),
    pytest.mark.filterwarnings("ignore:None of the inputs have requires_grad=True"),
    pytest.mark.filterwarnings("ignore:the batch norm of the gate"),
    pytest.mark.filterwarnings("ignore:a norm that holds a gate was frozen"),
    pytest.mark.filterwarnings("ignore:`torch.jit.trace` is deprecated"),
    pytest.mark.filterwarnings("ignore:.*:DeprecationWarning"),
    pytest.mark.filterwarnings("ignore:the network has .* attention modules already"),
]


@pytest.fixture(autouse=True)
def _seed():
    torch.manual_seed(0)
    torch._dynamo.reset()


def parts(shape=(3, 5, 6, 7)):
    """z, mean, scale, shift, residual, in float64."""
    n, c, *_ = shape
    z, residual = (torch.randn(shape, dtype=torch.float64) for _ in range(2))
    mean, scale, shift = (torch.randn(n, c, dtype=torch.float64) for _ in range(3))
    return z, mean, scale, shift, residual


@pytest.mark.parametrize("relu", [True, False])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32, torch.float64])
def test_the_pointwise_pass_and_its_gradient(dtype, relu):
    """Against ordinary torch in float64, whatever the map's type."""
    z, mean, scale, shift, residual = parts()
    z, residual = z.to(dtype), residual.to(dtype)
    values = dtype if dtype == torch.float64 else torch.float32
    mine = [z, mean.to(values), scale.to(values), shift.to(values), residual]
    mine = [v.clone().requires_grad_() for v in mine]
    truth = [v.detach().double().requires_grad_() for v in mine]
    out = affine.affine(*mine[:4], residual=mine[4], relu=relu)
    z, mean, scale, shift, residual = truth
    exact = (z - mean[:, :, None, None]) * scale[:, :, None, None] + shift[:, :, None, None]
    exact = exact + residual
    exact = exact.relu() if relu else exact
    rounding = torch.finfo(dtype).eps
    assert out.dtype == dtype
    torch.testing.assert_close(out.double(), exact, rtol=2 * rounding, atol=4 * rounding)
    grad = torch.randn(out.shape).to(dtype)
    out.backward(grad)
    exact.backward(grad.double())
    for got, want in zip(mine, truth, strict=True):
        assert got.grad.dtype == got.dtype
        allowed = 8 * max(rounding if got.ndim == 4 else torch.finfo(values).eps, 2e-16)
        torch.testing.assert_close(
            got.grad.double(), want.grad, rtol=allowed, atol=allowed * float(want.grad.abs().max())
        )


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_moments_are_those_of_each_sample_and_channel(dtype):
    z = (50 + torch.randn(3, 4, 7, 5)).to(dtype)
    mean, var = affine_reference.moments(z)
    assert mean.dtype == var.dtype == torch.float32
    exact = z.double()
    torch.testing.assert_close(mean.double(), exact.mean((2, 3)), rtol=1e-6, atol=1e-6)
    torch.testing.assert_close(
        var.double(), exact.var((2, 3), correction=0), rtol=1e-5, atol=1e-6 * math.sqrt(35)
    )

"""Batch norm in two steps against torch's own, in float64."""

# N batch, C channels, H W space

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from accuracy_booster.ops.batch_norm import BatchNormMode, batch_norm
from accuracy_booster.ops.moments import BatchMoments

CLOSE = {"rtol": 1e-10, "atol": 1e-10}


@pytest.mark.parametrize("affine", ["weight and bias", "weight", "bias", "neither"])
@pytest.mark.parametrize("shape", [(6, 4), (6, 4, 5), (2, 4, 3, 5), (3, 4, 2, 3, 2)], ids=str)
def test_output_gradients_and_running_statistics(shape, affine):
    x = (2 + torch.randn(shape, dtype=torch.float64)).requires_grad_()
    pair = [torch.randn(4, dtype=torch.float64).requires_grad_() for _ in range(2)]
    weight, bias = (
        p if name in affine else None for p, name in zip(pair, ("weight", "bias"), strict=True)
    )
    grad, stats = torch.randn(shape, dtype=torch.float64), torch.rand(2, 4, dtype=torch.float64)
    results = []
    for function in (F.batch_norm, batch_norm):
        mean, var = stats.clone()
        y = function(x, mean, var, weight, bias, True, 0.3, 1e-3)
        leaves = [v for v in (x, weight, bias) if v is not None]
        results.append([y, mean, var, *torch.autograd.grad((y * grad).sum(), leaves)])
    for found, wanted in zip(results[1], results[0], strict=True):
        torch.testing.assert_close(found, wanted, **CLOSE)


def test_16_bits_are_summed_in_float32():
    x = (100 + torch.randn(8, 3, 9, 9)).bfloat16()
    y = batch_norm(x, None, None)
    assert y.dtype == torch.bfloat16
    wanted = F.batch_norm(x.double(), None, None, training=True)
    torch.testing.assert_close(y.double(), wanted, rtol=2**-8, atol=2**-8)


def counting(calls):
    """A `synchronise` that counts its calls and changes nothing."""

    def synchronise(own: BatchMoments) -> BatchMoments:
        calls.append(own.size)
        return own

    return synchronise


def test_within_the_mode_norms_that_train_are_this_one():
    net = nn.Sequential(nn.BatchNorm2d(3), nn.Flatten(), nn.BatchNorm1d(12)).double()
    x = torch.randn(5, 3, 2, 2, dtype=torch.float64)
    calls: list[int] = []
    wanted = net(x)
    state = {k: v.clone() for k, v in net.state_dict().items() if "running" in k}
    for norm in (net[0], net[2]):
        norm.reset_running_stats()
    with BatchNormMode(counting(calls)):
        found = net(x)
    torch.testing.assert_close(found, wanted, **CLOSE)
    assert calls == [20, 5]
    for key, value in state.items():
        torch.testing.assert_close(net.state_dict()[key], value, **CLOSE)
    net(x)
    assert calls == [20, 5]  # not after the scope


def test_within_the_mode_norms_in_eval_mode_are_torchs():
    norm, x = nn.BatchNorm2d(3).eval(), torch.randn(5, 3, 2, 2)
    calls: list[int] = []
    with BatchNormMode(counting(calls)):
        assert torch.equal(norm(x), F.batch_norm(x, norm.running_mean, norm.running_var))
    assert not calls


def test_compiled_it_is_the_same():
    norm = nn.BatchNorm2d(3).double()
    x = torch.randn(5, 3, 2, 2, dtype=torch.float64)
    wanted = norm(x)
    compiled = torch.compile(norm, backend="aot_eager")
    calls: list[int] = []
    with BatchNormMode(counting(calls)):
        torch.testing.assert_close(compiled(x), wanted, **CLOSE)
    assert calls

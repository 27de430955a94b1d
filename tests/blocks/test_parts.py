"""Arguments of parts."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

import accuracy_booster as ab
from accuracy_booster.blocks import RecipeError


@pytest.mark.parametrize(
    "text",
    [
        "conv(99999) | sigmoid",
        "dwconv(257) | sigmoid",
        "gap | conv1d(1000001) | sigmoid",
        "channel_pool | conv2d(999) | sigmoid",
        f"gather({2**200}, learned=true) | sigmoid",
        f"gather({2**13}) | sigmoid",
    ],
)
def test_layers_of_absurd_sizes_are_refused(text):
    with pytest.raises(RecipeError, match=r"up to (255|4096)"):
        ab.recipe(text)


# AB with (w, gamma, beta, eps) is design F with (sign(w) gamma, beta, eps / w^2)

CHANNELS, EPS = 6, 1e-5


def norm_of(block: nn.Module) -> nn.Module:
    return next(m for m in block.modules() if hasattr(m, "running_var"))


def weight_of(block: nn.Module) -> torch.Tensor:
    """The depthwise weight of an AB block: the only parameter that is no vector."""
    (weight,) = (p for p in block.parameters() if p.ndim > 1)
    return weight


@pytest.mark.parametrize("training", [True, False], ids=["training", "inference"])
def test_ab_is_gap_and_bn_with_another_eps(training):
    torch.manual_seed(0)
    full = ab.Recalibrate(CHANNELS, "ab").double()
    plain = ab.Recalibrate(CHANNELS, f"gap | bn(eps={EPS}) | sigmoid").double()
    # one eps for all channels of F, so all weights of AB have one size; their signs differ
    size = 0.05
    signs = torch.tensor([1, -1, 1, 1, -1, -1.0], dtype=torch.float64)
    with torch.no_grad():
        weight_of(full).copy_((size * signs).reshape(weight_of(full).shape))
        norm, other = norm_of(full), norm_of(plain)
        norm.weight.copy_(torch.randn(CHANNELS))
        norm.bias.copy_(torch.randn(CHANNELS))
        norm.running_mean.copy_(torch.randn(CHANNELS))
        norm.running_var.copy_(torch.rand(CHANNELS) + 0.5)
        other.weight.copy_(signs * norm.weight)
        other.bias.copy_(norm.bias)
        other.running_mean.copy_(norm.running_mean / (size * signs))
        other.running_var.copy_(norm.running_var / size**2)
        other.eps = norm.eps / size**2
    full.train(training)
    plain.train(training)
    x = torch.randn(16, CHANNELS, 5, 5, dtype=torch.float64)
    inputs = [x.clone().requires_grad_(), x.clone().requires_grad_()]
    outputs = [block(y) for block, y in zip((full, plain), inputs, strict=True)]
    torch.testing.assert_close(*outputs, rtol=1e-12, atol=1e-12)
    direction = torch.randn_like(outputs[0])
    for output in outputs:
        output.backward(direction)
    torch.testing.assert_close(inputs[0].grad, inputs[1].grad, rtol=1e-10, atol=1e-12)
    torch.testing.assert_close(norm_of(full).bias.grad, norm_of(plain).bias.grad)
    torch.testing.assert_close(norm_of(full).weight.grad, signs * norm_of(plain).weight.grad)


def test_the_weight_has_no_gradient_but_through_eps():
    torch.manual_seed(0)
    block = ab.Recalibrate(CHANNELS, "ab").double().train()
    x = torch.randn(16, CHANNELS, 5, 5, dtype=torch.float64)
    direction = torch.randn_like(x)

    def gradient(eps: float) -> float:
        again = copy.deepcopy(block)
        norm_of(again).eps = eps
        (again(x) * direction).sum().backward()
        return weight_of(again).grad.abs().max().item()

    assert gradient(1e-14) < 1e-6 * gradient(1e-2)

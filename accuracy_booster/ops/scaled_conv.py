"""A pointwise convolution whose outputs are scaled per sample; the weights are scaled instead.

With the input h_n and the scale p_n of sample n, the weights W and the bias b:

    p_n * (W h_n + b) = (diag(p_n) W) h_n + p_n * b

So the unscaled output is never computed and need not be kept for the gradients. Let D_n be the
gradient of diag(p_n) W. Then the gradient of W is the sum over n of diag(p_n) D_n, and that of p_n
is the sum over input channels of D_n * W. `fastpath` uses this where the gate follows a
convolution.
"""

# N batch, C channels in, K channels out, H W space (or L, or D H W)

from __future__ import annotations

from typing import Any

import torch
from torch.amp import custom_bwd, custom_fwd
from torch.utils.checkpoint import checkpoint

from accuracy_booster.ops.backend import needs_torch_operations
from accuracy_booster.ops.pooled_conv import Conv


def scales_weights(h: torch.Tensor, conv: Conv) -> bool:
    """Whether `scaled_conv` takes conv: its N * K * C weights are at most a quarter of its outputs.

    Forward and backward, the N * K * C weights are written and read seven times. To multiply the
    outputs by p takes two or three more passes over these.
    """
    pointwise = all(n == 1 for n in (*conv.kernel_size, *conv.stride))
    whole = pointwise and all(n == 0 for n in conv.padding) and conv.groups == 1
    return whole and 4 * conv.in_channels <= h.shape[2:].numel()


def scaled_conv(h: torch.Tensor, conv: Conv, p: torch.Tensor) -> torch.Tensor:
    """h[N, C, H, W], p[N, K] -> conv(h) * p, [N, K, H, W] in h's memory format."""
    weight = conv.weight.flatten(1)
    if not needs_torch_operations():
        y = _ScaledProduct.apply(h, weight, p)
    elif torch.compiler.is_compiling() and torch.is_grad_enabled():
        # The compiler then keeps h and p for the gradients, not the factors, and h serves the
        # layers before it too. The product is outside: it would be computed again.
        factors = checkpoint(
            *(_factors, h, weight, p), use_reentrant=False, preserve_rng_state=False
        )
        y = _as_map(torch.bmm(*factors), h)
    else:
        y = _scaled_product(h, weight, p)
    if conv.bias is None:
        return y
    return y + (conv.bias * p).to(y.dtype)[(..., *[None] * (h.ndim - 2))]


def _scaled_product(h: torch.Tensor, weight: torch.Tensor, p: torch.Tensor) -> torch.Tensor:
    """h[N, C, H, W], weight[K, C], p[N, K] -> [N, K, H, W] in h's memory format."""
    return _as_map(torch.bmm(*_factors(h, weight, p)), h)


def _factors(
    h: torch.Tensor, weight: torch.Tensor, p: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """The factors of the product: [N, HW, C] and [N, C, K]; in NCHW [N, K, C] and [N, C, HW]."""
    weights = _scaled_weights(weight, p).to(weight.dtype)
    if _channels_last(h):
        return _positions(h), weights
    return weights.transpose(1, 2), h.flatten(2)


def _as_map(y: torch.Tensor, like: torch.Tensor) -> torch.Tensor:
    """The product of `_factors` -> [N, K, H, W] in the memory format of like[N, C, H, W]."""
    if _channels_last(like):
        return y.unflatten(1, like.shape[2:]).movedim(-1, 1)
    return y.unflatten(2, like.shape[2:])


def _channels_last(h: torch.Tensor) -> bool:
    return h.movedim(1, -1).is_contiguous()


def _scaled_weights(weight: torch.Tensor, p: torch.Tensor) -> torch.Tensor:
    """weight[K, C], p[N, K] -> [N, C, K], with which libraries multiply faster than [N, K, C]."""
    return weight.t().contiguous() * p[:, None, :]


def _positions(h: torch.Tensor) -> torch.Tensor:
    """h[N, C, H, W] -> [N, HW, C]."""
    return h.movedim(1, -1).flatten(1, -2)


class _ScaledProduct(torch.autograd.Function):
    """`_scaled_product`, which keeps nothing but its arguments for the gradients."""

    @staticmethod
    @custom_fwd(device_type="cuda")
    def forward(ctx: Any, h: torch.Tensor, weight: torch.Tensor, p: torch.Tensor) -> torch.Tensor:
        ctx.save_for_backward(h, weight, p)
        return _scaled_product(h, weight, p)

    @staticmethod
    @custom_bwd(device_type="cuda")
    def backward(ctx: Any, grad: torch.Tensor) -> tuple[Any, ...]:
        h, weight, p = ctx.saved_tensors
        weights = _scaled_weights(weight, p).to(grad.dtype)
        if _channels_last(grad):
            d_h = torch.bmm(_positions(grad), weights.transpose(1, 2))
        else:
            d_h = torch.bmm(weights, grad.flatten(2))
        d_h = _as_map(d_h, grad).to(h.dtype)
        d_scaled = torch.bmm(_positions(h.to(grad.dtype)).transpose(1, 2), _positions(grad))
        d_scaled = d_scaled.to(p.dtype)  # [N, C, K]
        d_weight = (d_scaled * p[:, None, :]).sum(0).t().to(weight.dtype)
        return d_h, d_weight, (d_scaled * weight.t()).sum(1).to(p.dtype)

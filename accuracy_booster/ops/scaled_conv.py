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
    """Whether `scaled_conv` takes conv, and its N * K * C weights are no more than its outputs."""
    pointwise = all(n == 1 for n in (*conv.kernel_size, *conv.stride))
    whole = pointwise and all(n == 0 for n in conv.padding) and conv.groups == 1
    return whole and conv.in_channels <= h.shape[2:].numel()


def scaled_conv(h: torch.Tensor, conv: Conv, p: torch.Tensor) -> torch.Tensor:
    """h[N, C, H, W], p[N, K] -> conv(h) * p, [N, K, H, W] in h's memory format."""
    n, space = len(h), h.shape[2:]
    last = h.movedim(1, -1).is_contiguous()
    if last:
        positions = h.movedim(1, -1).reshape(n, space.numel(), -1)
    else:
        positions = h.reshape(n, -1, space.numel()).transpose(1, 2)
    weight = conv.weight.flatten(1)
    if not needs_torch_operations():
        y = _ScaledProduct.apply(positions, weight, p, last)
    elif torch.compiler.is_compiling() and torch.is_grad_enabled():
        # the compiler then computes the scaled weights again, and does not keep them
        y = checkpoint(
            *(_scaled_product, positions, weight, p, last),
            use_reentrant=False,
            preserve_rng_state=False,
        )
    else:
        y = _scaled_product(positions, weight, p, last)
    y = y.unflatten(1, space).movedim(-1, 1)
    if conv.bias is None:
        return y
    return y + (conv.bias * p).to(y.dtype)[(..., *[None] * len(space))]


def _scaled_product(
    h: torch.Tensor, weight: torch.Tensor, p: torch.Tensor, last: bool
) -> torch.Tensor:
    """h[N, HW, C], weight[K, C], p[N, K] -> [N, HW, K]; `last`: channels are last in memory."""
    weights = (weight * p[:, :, None]).to(weight.dtype)
    if last:
        return torch.bmm(h, weights.transpose(1, 2))
    return torch.bmm(weights, h.transpose(1, 2)).transpose(1, 2)


class _ScaledProduct(torch.autograd.Function):
    """`_scaled_product`, which keeps nothing but its arguments for the gradients."""

    @staticmethod
    @custom_fwd(device_type="cuda")
    def forward(
        ctx: Any, h: torch.Tensor, weight: torch.Tensor, p: torch.Tensor, last: bool
    ) -> torch.Tensor:
        ctx.save_for_backward(h, weight, p)
        ctx.last = last
        return _scaled_product(h, weight, p, last)

    @staticmethod
    @custom_bwd(device_type="cuda")
    def backward(ctx: Any, grad: torch.Tensor) -> tuple[Any, ...]:
        h, weight, p = ctx.saved_tensors
        weights = (weight * p[:, :, None]).to(grad.dtype)
        d_h = torch.bmm(grad, weights).to(h.dtype)
        d_scaled = torch.bmm(grad.transpose(1, 2), h.to(grad.dtype)).to(p.dtype)  # [N, K, C]
        d_weight = (d_scaled * p[:, :, None]).sum(0).to(weight.dtype)
        return d_h, d_weight, (d_scaled * weight).sum(2).to(p.dtype), None

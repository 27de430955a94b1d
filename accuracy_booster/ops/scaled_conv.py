"""A pointwise convolution whose outputs are scaled per sample: the scale goes into the weights.

p * (W h + b) = (diag(p_n) W) h_n + p_n b. So there is no map of unscaled outputs, neither to read
nor to keep for the gradient: that of diag(p_n) W, one per sample, holds those of W and of p.
"""

# N batch, C channels in, K channels out, H W space (or L, or D H W)

from __future__ import annotations

from typing import Any

import torch
from torch.amp import custom_bwd, custom_fwd
from torch.autograd.function import once_differentiable
from torch.utils.checkpoint import checkpoint

from accuracy_booster.ops.affine import traced
from accuracy_booster.ops.pooled_conv import Conv


def scales_weights(h: torch.Tensor, conv: Conv) -> bool:
    """Whether `scaled_conv` knows the convolution, and its N weights are no larger than its map."""
    pointwise = all(n == 1 for n in (*conv.kernel_size, *conv.stride))
    plain = pointwise and all(n == 0 for n in conv.padding) and conv.groups == 1
    return plain and conv.in_channels <= h.shape[2:].numel()


def scaled_conv(h: torch.Tensor, conv: Conv, p: torch.Tensor) -> torch.Tensor:
    """h[N, C, H, W], p[N, K] -> conv(h) * p, [N, K, H, W] in h's memory format."""
    n, space = len(h), h.shape[2:]
    last = h.movedim(1, -1).is_contiguous()
    if last:
        positions = h.movedim(1, -1).reshape(n, space.numel(), -1)
    else:
        positions = h.reshape(n, -1, space.numel()).transpose(1, 2)
    weight = conv.weight.flatten(1)
    if not traced(h):
        y = _Scaled.apply(positions, weight, p, last)
    elif torch.is_grad_enabled():  # has the compiler make the scaled weights anew, not keep them
        y = checkpoint(
            *(_scaled, positions, weight, p, last), use_reentrant=False, preserve_rng_state=False
        )
    else:
        y = _scaled(positions, weight, p, last)
    y = y.unflatten(1, space).movedim(-1, 1)
    if conv.bias is None:
        return y
    return y + (conv.bias * p).to(y.dtype)[(..., *[None] * len(space))]


def _scaled(h: torch.Tensor, weight: torch.Tensor, p: torch.Tensor, last: bool) -> torch.Tensor:
    """h[N, HW, C], weight[K, C], p[N, K] -> [N, HW, K], the channels last in memory or first."""
    weights = (weight * p[:, :, None]).to(weight.dtype)
    if last:
        return torch.bmm(h, weights.transpose(1, 2))
    return torch.bmm(weights, h.transpose(1, 2)).transpose(1, 2)


class _Scaled(torch.autograd.Function):
    """`_scaled`, which keeps its arguments alone for the gradient."""

    @staticmethod
    @custom_fwd(device_type="cuda")
    def forward(ctx: Any, h: torch.Tensor, weight: torch.Tensor, p: torch.Tensor, last: bool):
        ctx.save_for_backward(h, weight, p)
        ctx.last = last
        return _scaled(h, weight, p, last)

    @staticmethod
    @custom_bwd(device_type="cuda")
    @once_differentiable
    def backward(ctx: Any, grad: torch.Tensor):
        h, weight, p = ctx.saved_tensors
        weights = (weight * p[:, :, None]).to(grad.dtype)
        d_h = torch.bmm(grad, weights).to(h.dtype)
        of_each = torch.bmm(grad.transpose(1, 2), h.to(grad.dtype)).to(p.dtype)  # [N, K, C]
        d_weight = (of_each * p[:, :, None]).sum(0).to(weight.dtype)
        return d_h, d_weight, (of_each * weight).sum(2).to(p.dtype), None

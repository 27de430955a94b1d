"""The four passes of a fused norm in plain torch: what the kernels compute, and are tested against.

Statistics are float32 for 16-bit maps; what is as large as the map has the map's type.
"""

# N batch, C channels, H W space (or L, or D H W; `affine` takes [N, C] too); per-sample values are
# [N, C]

from __future__ import annotations

import torch

from accuracy_booster.ops.precision import accumulation_dtype


def spread(v: torch.Tensor, z: torch.Tensor) -> torch.Tensor:
    """v[N, C] -> [N, C, 1, 1], with as many dimensions as z."""
    return v[(..., *[None] * (z.ndim - 2))]


def space(z: torch.Tensor) -> tuple[int, ...]:
    """The dimensions of space of z[N, C, ...]."""
    return tuple(range(2, z.ndim))


def moments(z: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """z[N, C, H, W] -> mean[N, C] and variance[N, C] over space (correction 0)."""
    x = z.to(accumulation_dtype(z.dtype))
    if torch.compiler.is_compiling():  # the compiler makes one pass of it
        var, mean = torch.var_mean(x, space(x), correction=0)
        return mean, var
    mean = x.mean(space(x))  # on the CPU var_mean takes 4 to 20 times longer than these two
    return mean, (x - spread(mean, x)).square().mean(space(x))


def affine(
    z: torch.Tensor,
    mean: torch.Tensor | None,
    scale: torch.Tensor,
    shift: torch.Tensor | None,
    residual: torch.Tensor | None,
    relu: bool,
) -> torch.Tensor:
    """(z - mean) * scale + shift + residual, and ReLU; what is None is left out."""
    y = z if mean is None else z - spread(mean, z)
    if shift is None:
        y = y * spread(scale, z)
    else:
        y = torch.addcmul(spread(shift, z), y, spread(scale, z))
    if residual is not None:
        y = y + residual if residual.dtype != y.dtype else y.add_(residual)
    return (y.relu_() if relu else y).to(z.dtype)


def affine_grads(
    grad: torch.Tensor,
    out: torch.Tensor | None,
    z: torch.Tensor,
    mean: torch.Tensor | None,
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """The gradients of `affine`'s sum, scale[N, C] and shift[N, C].

    `out` is what `affine` gave if it ended in a ReLU, else None, and then the first of the three is
    `grad` itself.
    """
    if out is not None:
        grad = grad.masked_fill(out <= 0, 0)
    g = grad.to(accumulation_dtype(grad.dtype))
    centred = z if mean is None else z - spread(mean, z)
    if z.ndim == 2:  # a sum over no dimensions is one over all in torch
        return grad, g * centred, g
    return grad, (g * centred).sum(space(z)), g.sum(space(z))


def input_grad(
    grad: torch.Tensor | None,
    scale: torch.Tensor | None,
    z: torch.Tensor,
    mean: torch.Tensor,
    slope: torch.Tensor,
    offset: torch.Tensor,
) -> torch.Tensor:
    """grad * scale + (z - mean) * slope + offset, in z's type."""
    total = torch.addcmul(spread(offset, z), z - spread(mean, z), spread(slope, z))
    if grad is not None and scale is not None:
        total = total.addcmul_(grad.to(total.dtype), spread(scale, z))
    return total.to(z.dtype)

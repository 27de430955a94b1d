"""The two passes of `affine` and their gradients in plain torch. This defines what they compute.

The Triton kernels have the same four functions (`affine_triton`) and are tested against these.
Values per sample and channel are float32 for 16-bit maps; maps keep their type.
"""

# N batch, C channels, H W space (or L, or D H W; `affine` takes [N, C] too); values per sample and
# channel are [N, C]

from __future__ import annotations

import torch

from accuracy_booster.ops.precision import accumulation_dtype


def over_space(v: torch.Tensor, z: torch.Tensor) -> torch.Tensor:
    """v[N, C] -> [N, C, 1, 1], with as many dimensions as z, to broadcast over z's space."""
    return v[(..., *[None] * (z.ndim - 2))]


def space_dims(z: torch.Tensor) -> tuple[int, ...]:
    """The dimensions of space of z[N, C, ...]."""
    return tuple(range(2, z.ndim))


def sample_moments(z: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """z[N, C, H, W] -> mean[N, C] and variance[N, C] over space (correction 0)."""
    x = z.to(accumulation_dtype(z.dtype))
    if torch.compiler.is_compiling():  # the compiler makes one pass of it
        var, mean = torch.var_mean(x, space_dims(x), correction=0)
        return mean, var
    mean = x.mean(space_dims(x))  # on the CPU var_mean takes 4 to 20 times longer than these two
    return mean, (x - over_space(mean, x)).square().mean(space_dims(x))


def affine(
    z: torch.Tensor,
    mean: torch.Tensor | None,
    scale: torch.Tensor,
    shift: torch.Tensor | None,
    residual: torch.Tensor | None,
    relu: bool,
) -> torch.Tensor:
    """(z - mean) * scale + shift + residual, then ReLU, in z's type; None leaves a term out.

    z and residual are [N, C, H, W], the others [N, C].
    """
    y = z if mean is None else z - over_space(mean, z)
    if shift is None:
        y = y * over_space(scale, z)
    else:
        y = torch.addcmul(over_space(shift, z), y, over_space(scale, z))
    if residual is not None:
        y = y + residual if residual.dtype != y.dtype else y.add_(residual)
    return (y.relu_() if relu else y).to(z.dtype)


def affine_grads(
    grad: torch.Tensor,
    out: torch.Tensor | None,
    z: torch.Tensor,
    mean: torch.Tensor | None,
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """The gradients of what `affine` adds up, of scale and of shift.

    Args:
        grad: the gradient of the output, [N, C, H, W] as out and z.
        out: the output, if it ended in a ReLU; else None.
        z, mean: what `affine` got.

    Returns:
        The gradient of the sum before the ReLU [N, C, H, W] (`grad` itself if `out` is None), and
        the gradients of scale and shift [N, C].
    """
    if out is not None:
        grad = grad.masked_fill(out <= 0, 0)
    g = grad.to(accumulation_dtype(grad.dtype))
    centred = z if mean is None else z - over_space(mean, z)
    if z.ndim == 2:  # a sum over no dimensions is one over all in torch
        return grad, g * centred, g
    return grad, (g * centred).sum(space_dims(z)), g.sum(space_dims(z))


def input_grad(
    grad: torch.Tensor | None,
    scale: torch.Tensor | None,
    z: torch.Tensor,
    mean: torch.Tensor,
    slope: torch.Tensor,
    offset: torch.Tensor,
) -> torch.Tensor:
    """The gradient of z: grad * scale + (z - mean) * slope + offset, in z's type.

    grad and z are [N, C, H, W], the others [N, C]. Without grad or scale the first term is 0.
    """
    total = torch.addcmul(over_space(offset, z), z - over_space(mean, z), over_space(slope, z))
    if grad is not None and scale is not None:
        total = total.addcmul_(grad.to(total.dtype), over_space(scale, z))
    return total.to(z.dtype)

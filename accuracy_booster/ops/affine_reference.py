"""The passes of `affine` and `norm_terms` in plain torch. This defines what they compute.

`affine_triton` has the same functions for the GPU, and is tested against these. Values per sample
and channel are float32 for 16-bit maps; maps keep their type.
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


def norm_terms(
    mean_nc: torch.Tensor,
    var_nc: torch.Tensor,
    weight: torch.Tensor | None,
    bias: torch.Tensor | None,
    eps: float,
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
    """What a batch norm and its gate need, from the moments [N, C] of each sample and channel.

        mean = mean over n of mean_nc
        var = mean over n of (var_nc + (mean_nc - mean)^2)
        inv_std = 1 / sqrt(var + eps)
        scale = weight * inv_std
        descriptor = (mean_nc - mean) * scale + bias

    Returns:
        mean, var, inv_std, scale [C] and descriptor [N, C], which is the mean over space of the
        norm's output.
    """
    mean = mean_nc.mean(0)
    centred = mean_nc - mean
    var = var_nc.mean(0) + centred.square().mean(0)
    inv_std = torch.rsqrt(var + eps)
    scale = inv_std.clone() if weight is None else inv_std * weight
    descriptor = centred * scale if bias is None else torch.addcmul(bias, centred, scale)
    return mean, var, inv_std, scale, descriptor


def norm_terms_grads(
    d_mean_nc: torch.Tensor | None,
    d_scale: torch.Tensor | None,
    d_descriptor: torch.Tensor,
    mean_nc: torch.Tensor,
    mean: torch.Tensor,
    inv_std: torch.Tensor,
    scale: torch.Tensor,
    area: int,
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
    """The gradients of `norm_terms`, those of the moments in the form that `input_grad` takes.

    With L the loss, N samples and area = H W positions:

        dL/dscale = d_scale + sum over n of d_descriptor * (mean_nc - mean)
        dL/dvar = -1/2 * dL/dscale * scale * inv_std^2
        slope = dL/dvar_nc * 2 / area, where dL/dvar_nc = dL/dvar / N
        offset = dL/dmean_nc / area, where dL/dmean_nc = d_mean_nc
            + (d_descriptor - dL/dbias / N) * scale + dL/dvar * 2 * (mean_nc - mean) / N

    Args:
        d_mean_nc: [N, C], the gradient of mean_nc from where else it is used.
        d_scale: [C], the gradient of scale from where else it is used.
        d_descriptor: [N, C].

    Returns:
        The gradients of weight [C] and bias [C]; slope [N, C] and offset [N, C].
    """
    n, centred = len(mean_nc), mean_nc - mean
    d_bias = d_descriptor.sum(0)
    whole_d_scale = (d_descriptor * centred).sum(0)
    whole_d_scale = whole_d_scale if d_scale is None else whole_d_scale + d_scale
    d_var = whole_d_scale * scale * inv_std.square() * (-1 / n)  # times 2 / N
    offset = torch.addcmul((d_descriptor - d_bias / n) * scale, centred, d_var)
    offset = (offset if d_mean_nc is None else offset + d_mean_nc) / area
    return whole_d_scale * inv_std, d_bias, (d_var / area).expand_as(mean_nc), offset

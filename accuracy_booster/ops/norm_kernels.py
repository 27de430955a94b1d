"""The Triton kernels of `norm_terms` and its gradients; `affine_triton` runs them.

`affine_reference.norm_terms` and `norm_terms_grads` define what they compute, in float32.
"""

# N batch, C channels. Each program works on TILE_C channels, in tiles of TILE_N samples.

# There is no `from __future__ import annotations`, because Triton reads `tl.constexpr` from the
# annotations. Other arguments have none: in a kernel they are Triton's values, not Python's.

import triton
import triton.language as tl


@triton.jit
def _channels(C, TILE_C: tl.constexpr):
    """This program's channels c[TILE_C], and the mask of those that there are."""
    c = tl.program_id(0) * TILE_C + tl.arange(0, TILE_C)
    return c, c < C


@triton.jit
def _samples(start, c, N, C, TILE_N: tl.constexpr):
    """The offsets [TILE_N, TILE_C] of values [N, C] from sample `start` on, and their mask."""
    n = start + tl.arange(0, TILE_N)
    return n[:, None] * C + c[None, :], (n < N)[:, None] & (c < C)[None, :]


@triton.jit
def norm_terms_kernel(
    mean_nc,
    var_nc,
    weight,
    bias,
    mean,
    var,
    inv_std,
    scale,
    descriptor,
    N,
    C,
    eps,
    TILE_N: tl.constexpr,
    TILE_C: tl.constexpr,
):
    """mean_nc, var_nc, weight, bias -> mean, var, inv_std, scale, descriptor."""
    c, there = _channels(C, TILE_C)
    total = tl.zeros([TILE_N, TILE_C], tl.float32)
    for start in range(0, N, TILE_N):
        at, inside = _samples(start, c, N, C, TILE_N)
        total += tl.load(mean_nc + at, mask=inside, other=0.0)
    mean_c = tl.sum(total, 0) / N
    total = tl.zeros([TILE_N, TILE_C], tl.float32)
    for start in range(0, N, TILE_N):
        at, inside = _samples(start, c, N, C, TILE_N)
        centred = tl.load(mean_nc + at, mask=inside, other=0.0) - mean_c[None, :]
        centred = tl.where(inside, centred, 0.0)
        total += centred * centred + tl.load(var_nc + at, mask=inside, other=0.0)
    var_c = tl.sum(total, 0) / N
    inv_std_c = 1.0 / tl.sqrt(var_c + eps)
    scale_c = inv_std_c
    if weight is not None:
        scale_c = inv_std_c * tl.load(weight + c, mask=there, other=0.0)
    tl.store(mean + c, mean_c, mask=there)
    tl.store(var + c, var_c, mask=there)
    tl.store(inv_std + c, inv_std_c, mask=there)
    tl.store(scale + c, scale_c, mask=there)
    for start in range(0, N, TILE_N):
        at, inside = _samples(start, c, N, C, TILE_N)
        centred = tl.load(mean_nc + at, mask=inside, other=0.0) - mean_c[None, :]
        d = centred * scale_c[None, :]
        if bias is not None:
            d += tl.load(bias + c, mask=there, other=0.0)[None, :]
        tl.store(descriptor + at, d, mask=inside)


@triton.jit
def norm_terms_grads_kernel(
    d_mean_nc,
    d_scale,
    d_descriptor,
    mean_nc,
    mean,
    inv_std,
    scale,
    d_weight,
    d_bias,
    slope,
    offset,
    N,
    C,
    area,
    TILE_N: tl.constexpr,
    TILE_C: tl.constexpr,
):
    """The gradients, with d_mean_nc and d_scale or None -> d_weight, d_bias, slope, offset."""
    c, there = _channels(C, TILE_C)
    mean_c = tl.load(mean + c, mask=there, other=0.0)
    inv_std_c = tl.load(inv_std + c, mask=there, other=0.0)
    scale_c = tl.load(scale + c, mask=there, other=0.0)
    grad_sum = tl.zeros([TILE_N, TILE_C], tl.float32)
    grad_times_mean = tl.zeros([TILE_N, TILE_C], tl.float32)
    for start in range(0, N, TILE_N):
        at, inside = _samples(start, c, N, C, TILE_N)
        g = tl.load(d_descriptor + at, mask=inside, other=0.0)
        centred = tl.load(mean_nc + at, mask=inside, other=0.0) - mean_c[None, :]
        grad_sum += g
        grad_times_mean += g * centred  # g is 0 outside
    d_bias_c, d_scale_c = tl.sum(grad_sum, 0), tl.sum(grad_times_mean, 0)
    if d_scale is not None:
        d_scale_c += tl.load(d_scale + c, mask=there, other=0.0)
    tl.store(d_weight + c, d_scale_c * inv_std_c, mask=there)
    tl.store(d_bias + c, d_bias_c, mask=there)
    d_var = -d_scale_c * scale_c * inv_std_c * inv_std_c / N  # times 2 / N
    for start in range(0, N, TILE_N):
        at, inside = _samples(start, c, N, C, TILE_N)
        g = tl.load(d_descriptor + at, mask=inside, other=0.0) - (d_bias_c / N)[None, :]
        centred = tl.load(mean_nc + at, mask=inside, other=0.0) - mean_c[None, :]
        d = g * scale_c[None, :] + centred * d_var[None, :]
        if d_mean_nc is not None:
            d += tl.load(d_mean_nc + at, mask=inside, other=0.0)
        tl.store(offset + at, d / area, mask=inside)
        s = tl.zeros([TILE_N, TILE_C], tl.float32) + (d_var / area)[None, :]
        tl.store(slope + at, s, mask=inside)

"""The Triton kernels of `affine`'s two passes and of their gradients; `affine_triton` runs them.

`affine_reference` defines what they compute. They compute in float32; maps keep their type. One
kernel serves both memory formats: element (n, c, s) of a map is at n * C * S + c * stride_c + s *
stride_s, and the strides are (S, 1) in NCHW and (1, C) in channels_last.
"""

# N batch, C channels, S = H * W positions of space (or L, or D * H * W); values per sample and
# channel are [N, C]. Each program works on tiles of TILE_C channels and TILE_S positions.

# There is no `from __future__ import annotations`, because Triton reads `tl.constexpr` from the
# annotations. Other arguments have none: in a kernel they are Triton's values, not Python's.

import triton
import triton.language as tl


@triton.jit
def _tile(C, S, TILE_C: tl.constexpr, TILE_S: tl.constexpr):
    """This program's sample n, channels c[TILE_C] and positions s[TILE_S].

    Programs that follow one another have the same sample and positions, and the next channels.
    """
    pid = tl.program_id(0)
    tiles_c, tiles_s = tl.cdiv(C, TILE_C), tl.cdiv(S, TILE_S)
    row = pid // tiles_c
    c = pid % tiles_c * TILE_C + tl.arange(0, TILE_C)
    s = row % tiles_s * TILE_S + tl.arange(0, TILE_S)
    return (row // tiles_s).to(tl.int64), c, s


@triton.jit
def _elements(c, s, C, S, stride_c, stride_s):
    """The tile's offsets within a sample, and the mask of those that are inside the map."""
    return c[:, None] * stride_c + s[None, :] * stride_s, (c < C)[:, None] & (s < S)[None, :]


@triton.jit
def _load(pointers, inside):
    """A tile of a map in float32, with 0 outside of the map."""
    return tl.load(pointers, mask=inside, other=0.0).to(tl.float32)


@triton.jit
def _values(v, n, c, C):
    """Values v[N, C] of sample n and channels c, as [TILE_C, 1]."""
    return tl.load(v + n * C + c, mask=c < C, other=0.0)[:, None]


@triton.jit
def sample_moments_kernel(
    z, mean, var, C, S, stride_c, stride_s, TILE_C: tl.constexpr, TILE_S: tl.constexpr
):
    """z[N, C, S] -> mean[N, C], var[N, C] over space (correction 0).

    The tile moves over space. Each of its elements sees every TILE_S-th position and keeps the mean
    of the values that it has seen and the sum of their squared deviations from it, by Welford's
    rule. In the end Chan's formula combines the elements of a row. So there is a single reduction
    over threads, and no difference of large squares.
    """
    n, c, _ = _tile(C, 1, TILE_C, 1)
    z += n * C * S
    means = tl.zeros([TILE_C, TILE_S], tl.float32)
    squares = tl.zeros([TILE_C, TILE_S], tl.float32)
    for start in range(0, S, TILE_S):
        s = start + tl.arange(0, TILE_S)
        at, inside = _elements(c, s, C, S, stride_c, stride_s)
        x = _load(z + at, inside)
        deviation = tl.where(inside, x - means, 0.0)
        means += deviation * (1.0 / (start // TILE_S + 1))
        squares += deviation * (x - means)
    seen = (S + TILE_S - 1 - tl.arange(0, TILE_S)) // TILE_S  # how many positions each element saw
    seen = seen.to(tl.float32)[None, :]
    total = tl.sum(means * seen, 1) / S
    deviation = means - total[:, None]
    tl.store(mean + n * C + c, total, mask=c < C)
    tl.store(var + n * C + c, tl.sum(squares + deviation * deviation * seen, 1) / S, mask=c < C)


@triton.jit
def affine_kernel(
    z,
    mean,
    scale,
    shift,
    residual,
    out,
    C,
    S,
    stride_c,
    stride_s,
    RELU: tl.constexpr,
    TILE_C: tl.constexpr,
    TILE_S: tl.constexpr,
):
    """out = (z - mean) * scale + shift + residual, then ReLU; None leaves a term out."""
    n, c, s = _tile(C, S, TILE_C, TILE_S)
    at, inside = _elements(c, s, C, S, stride_c, stride_s)
    begin = n * C * S
    y = _load(z + begin + at, inside)
    if mean is not None:
        y -= _values(mean, n, c, C)
    y *= _values(scale, n, c, C)
    if shift is not None:
        y += _values(shift, n, c, C)
    if residual is not None:
        y += _load(residual + begin + at, inside)
    if RELU:
        y = tl.where(y <= 0, 0.0, y)  # not tl.maximum, which would turn NaN into 0
    tl.store(out + begin + at, y.to(out.dtype.element_ty), mask=inside)


@triton.jit
def affine_grads_kernel(
    grad,
    out,
    z,
    mean,
    masked,
    d_scale,
    d_shift,
    C,
    S,
    stride_c,
    stride_s,
    TILE_C: tl.constexpr,
    TILE_S: tl.constexpr,
):
    """The gradients of scale and shift, and in `masked` that of the sum before the ReLU.

    Without `out` there was no ReLU, and `masked` is None. Without `mean` it was 0.
    """
    n, c, _ = _tile(C, 1, TILE_C, 1)
    begin = n * C * S
    grad_times_z = tl.zeros([TILE_C, TILE_S], tl.float32)
    grad_sum = tl.zeros([TILE_C, TILE_S], tl.float32)
    if mean is not None:
        centre = _values(mean, n, c, C)
    for start in range(0, S, TILE_S):
        s = start + tl.arange(0, TILE_S)
        at, inside = _elements(c, s, C, S, stride_c, stride_s)
        g = _load(grad + begin + at, inside)
        if out is not None:
            y = _load(out + begin + at, inside)
            g = tl.where(y <= 0, 0.0, g)  # as in torch, an output of NaN lets the gradient pass
            tl.store(masked + begin + at, g.to(masked.dtype.element_ty), mask=inside)
        x = _load(z + begin + at, inside)
        if mean is not None:
            x -= centre
        grad_times_z += g * x
        grad_sum += g
    tl.store(d_scale + n * C + c, tl.sum(grad_times_z, 1), mask=c < C)
    tl.store(d_shift + n * C + c, tl.sum(grad_sum, 1), mask=c < C)


@triton.jit
def input_grad_kernel(
    grad,
    scale,
    z,
    mean,
    slope,
    offset,
    out,
    C,
    S,
    stride_c,
    stride_s,
    TILE_C: tl.constexpr,
    TILE_S: tl.constexpr,
):
    """out = grad * scale + (z - mean) * slope + offset; without grad the first term is 0."""
    n, c, s = _tile(C, S, TILE_C, TILE_S)
    at, inside = _elements(c, s, C, S, stride_c, stride_s)
    begin = n * C * S
    x = _load(z + begin + at, inside)
    total = (x - _values(mean, n, c, C)) * _values(slope, n, c, C) + _values(offset, n, c, C)
    if grad is not None:
        g = _load(grad + begin + at, inside)
        total += g * _values(scale, n, c, C)
    tl.store(out + begin + at, total.to(out.dtype.element_ty), mask=inside)

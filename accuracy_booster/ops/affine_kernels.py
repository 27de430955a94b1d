"""The four passes of a fused norm as Triton kernels; `reference` says what they compute.

Sums and values are float32, what is as large as the map has z's type. One kernel serves both memory
layouts: an element lies at n C HW + c stride_c + s stride_s, the strides being (HW, 1) for NCHW and
(1, C) for channels_last, and the shape of the tile follows the layout (`blocks`).

On the CPU, for tests: TRITON_INTERPRET=1, set before Triton is first imported.
"""

# N batch, C channels, H W space (or L, or D H W), S = H * W; per-sample values are [N, C], tiles
# [BLOCK_C, BLOCK_S]

# no `from __future__ import annotations`: Triton reads `tl.constexpr` from the annotations

from contextlib import nullcontext
from typing import Any

import torch
import triton
import triton.language as tl

from accuracy_booster.ops import affine_reference

TILE = 2048  # elements: 2 to 4 loads of 16 bytes for each thread of 4 warps, few registers
WARP = 512  # elements for a warp, 16 for each thread
PROGRAMS = 1024  # what keeps 132 processors' memory busy, 8 programs on each


def blocks(n: int, c: int, area: int, channels_last: bool, reduces: bool) -> tuple[int, int, int]:
    """BLOCK_C, BLOCK_S and the number of warps.

    The tile is long in the direction in which memory runs: whole rows of space in NCHW; 64 channels
    in channels_last, which is a cache line of 128 bytes in bfloat16. The other direction fills it
    up. A reduction runs through all of space, so only samples and channels make programs; where
    they are few, each takes fewer channels, as long as a warp is busy, and in channels_last no less
    than 16, a sector of 32 bytes, the least that memory gives.
    """
    most_c, most_s = triton.next_power_of_2(c), triton.next_power_of_2(area)
    block_c = min(most_c, 64) if channels_last else 1
    block_s = min(most_s, TILE // block_c)
    block_c = min(most_c, TILE // block_s)
    least_c = 16 if channels_last else 1
    while (
        reduces
        and n * triton.cdiv(c, block_c) < PROGRAMS
        and block_c > least_c
        and block_c * block_s > WARP
    ):
        block_c //= 2
        block_s = min(most_s, TILE // block_c)
    return block_c, block_s, min(max(block_c * block_s // WARP, 1), 4)


@triton.jit
def _tile(C, S, BLOCK_C: tl.constexpr, BLOCK_S: tl.constexpr):
    """A program's sample, channels and positions; neighbours share sample and positions."""
    pid = tl.program_id(0)
    blocks_c, blocks_s = tl.cdiv(C, BLOCK_C), tl.cdiv(S, BLOCK_S)
    row = pid // blocks_c
    c = pid % blocks_c * BLOCK_C + tl.arange(0, BLOCK_C)
    s = row % blocks_s * BLOCK_S + tl.arange(0, BLOCK_S)
    return (row // blocks_s).to(tl.int64), c, s


@triton.jit
def _elements(c, s, C, S, stride_c, stride_s):
    """Where a tile's elements lie in a sample, and which of them there are."""
    return c[:, None] * stride_c + s[None, :] * stride_s, (c < C)[:, None] & (s < S)[None, :]


@triton.jit
def _load(pointers, inside):
    return tl.load(pointers, mask=inside, other=0.0).to(tl.float32)


@triton.jit
def _values(v, n, c, C):
    """v[N, C] of a sample's channels -> [BLOCK_C, 1]."""
    return tl.load(v + n * C + c, mask=c < C, other=0.0)[:, None]


@triton.jit
def _moments_kernel(
    z, mean, var, C, S, stride_c, stride_s, BLOCK_C: tl.constexpr, BLOCK_S: tl.constexpr
):
    """Each place in the tile keeps the mean and the squares around it of what it has seen.

    Within a place by Welford's rule, the places at the end by Chan's formula: one reduction over
    threads, and no difference of large squares.
    """
    n, c, _ = _tile(C, 1, BLOCK_C, 1)
    z += n * C * S
    means = tl.zeros([BLOCK_C, BLOCK_S], tl.float32)
    squares = tl.zeros([BLOCK_C, BLOCK_S], tl.float32)
    for start in range(0, S, BLOCK_S):
        s = start + tl.arange(0, BLOCK_S)
        at, inside = _elements(c, s, C, S, stride_c, stride_s)
        x = _load(z + at, inside)
        apart = tl.where(inside, x - means, 0.0)
        means += apart * (1.0 / (start // BLOCK_S + 1))
        squares += apart * (x - means)
    seen = (S + BLOCK_S - 1 - tl.arange(0, BLOCK_S)) // BLOCK_S  # by each place of a row
    seen = seen.to(tl.float32)[None, :]
    total = tl.sum(means * seen, 1) / S
    apart = means - total[:, None]
    tl.store(mean + n * C + c, total, mask=c < C)
    tl.store(var + n * C + c, tl.sum(squares + apart * apart * seen, 1) / S, mask=c < C)


@triton.jit
def _affine_kernel(
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
    BLOCK_C: tl.constexpr,
    BLOCK_S: tl.constexpr,
):
    n, c, s = _tile(C, S, BLOCK_C, BLOCK_S)
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
        y = tl.where(y <= 0, 0.0, y)  # not the maximum, which loses NaN
    tl.store(out + begin + at, y.to(out.dtype.element_ty), mask=inside)


@triton.jit
def _affine_grads_kernel(
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
    BLOCK_C: tl.constexpr,
    BLOCK_S: tl.constexpr,
):
    n, c, _ = _tile(C, 1, BLOCK_C, 1)
    begin = n * C * S
    with_z = tl.zeros([BLOCK_C, BLOCK_S], tl.float32)
    alone = tl.zeros([BLOCK_C, BLOCK_S], tl.float32)
    if mean is not None:
        around = _values(mean, n, c, C)
    for start in range(0, S, BLOCK_S):
        s = start + tl.arange(0, BLOCK_S)
        at, inside = _elements(c, s, C, S, stride_c, stride_s)
        g = _load(grad + begin + at, inside)
        if out is not None:
            y = _load(out + begin + at, inside)
            g = tl.where(y <= 0, 0.0, g)  # NaN passes the gradient on
            tl.store(masked + begin + at, g.to(masked.dtype.element_ty), mask=inside)
        x = _load(z + begin + at, inside)
        if mean is not None:
            x -= around
        with_z += g * x
        alone += g
    tl.store(d_scale + n * C + c, tl.sum(with_z, 1), mask=c < C)
    tl.store(d_shift + n * C + c, tl.sum(alone, 1), mask=c < C)


@triton.jit
def _input_grad_kernel(
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
    BLOCK_C: tl.constexpr,
    BLOCK_S: tl.constexpr,
):
    n, c, s = _tile(C, S, BLOCK_C, BLOCK_S)
    at, inside = _elements(c, s, C, S, stride_c, stride_s)
    begin = n * C * S
    x = _load(z + begin + at, inside)
    total = (x - _values(mean, n, c, C)) * _values(slope, n, c, C) + _values(offset, n, c, C)
    if grad is not None:
        g = _load(grad + begin + at, inside)
        total += g * _values(scale, n, c, C)
    tl.store(out + begin + at, total.to(out.dtype.element_ty), mask=inside)


def _layout(z: torch.Tensor) -> torch.memory_format:
    """z's own, or where it has none of the two the one that is nearer."""
    if z.is_contiguous() or z.ndim < 4:  # torch has no other layout for [N, C, L]
        return torch.contiguous_format
    near = z.stride(1) == 1 and z.shape[1] > 1
    last = torch.channels_last if z.ndim == 4 else torch.channels_last_3d
    return last if near else torch.contiguous_format


def _map(x: torch.Tensor | None, z: torch.Tensor) -> torch.Tensor | None:
    """x in the memory layout that z's kernel assumes: as it is, or a copy."""
    return None if x is None else x.expand_as(z).contiguous(memory_format=_layout(z))


def _nc(v: torch.Tensor | None, z: torch.Tensor) -> torch.Tensor | None:
    """v[N, C] as float32 without gaps."""
    return None if v is None else v.float().expand(z.shape[:2]).contiguous()


def _new_nc(z: torch.Tensor) -> torch.Tensor:
    return z.new_empty(z.shape[:2], dtype=torch.float32)


def _suits(z: torch.Tensor) -> bool:
    """Not empty, and offsets within a sample fit 32 bits (those of samples have 64)."""
    return z.numel() > 0 and z[0].numel() < 2**31


def _launch(kernel: Any, z: torch.Tensor, *args: Any, reduces: bool = False, **flags: Any) -> None:
    """Run it over z, whose layout is one of the two."""
    n, c, area = z.shape[0], z.shape[1], z.shape[2:].numel()
    last = _layout(z) is not torch.contiguous_format
    block_c, block_s, warps = blocks(n, c, area, last, reduces)
    programs = n * triton.cdiv(c, block_c) * (1 if reduces else triton.cdiv(area, block_s))
    strides = (1, c) if last else (area, 1)
    options: dict[str, Any] = {"BLOCK_C": block_c, "BLOCK_S": block_s, "num_warps": warps}
    options["enable_fp_fusion"] = True  # versions differ in what they take by default, and warn
    with torch.cuda.device(z.device) if z.is_cuda else nullcontext():  # Triton takes the current
        kernel[(programs,)](*args, c, area, *strides, **flags, **options)


def moments(z: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """z[N, C, H, W] -> mean[N, C] and variance[N, C] over space (correction 0)."""
    if not _suits(z):
        return affine_reference.moments(z)
    z = z.contiguous(memory_format=_layout(z))
    mean, var = _new_nc(z), _new_nc(z)
    _launch(_moments_kernel, z, z, mean, var, reduces=True)
    return mean, var


def affine(
    z: torch.Tensor,
    mean: torch.Tensor | None,
    scale: torch.Tensor,
    shift: torch.Tensor | None,
    residual: torch.Tensor | None,
    relu: bool,
) -> torch.Tensor:
    """(z - mean) * scale + shift + residual, and ReLU; what is None is left out."""
    if not _suits(z):
        return affine_reference.affine(z, mean, scale, shift, residual, relu)
    z = z.contiguous(memory_format=_layout(z))
    out = torch.empty_like(z)
    values = (_nc(mean, z), _nc(scale, z), _nc(shift, z))
    _launch(_affine_kernel, z, z, *values, _map(residual, z), out, RELU=relu)
    return out


def affine_grads(
    grad: torch.Tensor,
    out: torch.Tensor | None,
    z: torch.Tensor,
    mean: torch.Tensor | None,
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """The gradients of `affine`'s sum, scale[N, C] and shift[N, C]; see `reference`."""
    if not _suits(z):
        return affine_reference.affine_grads(grad, out, z, mean)
    z = z.contiguous(memory_format=_layout(z))
    masked = None if out is None else torch.empty_like(z, dtype=grad.dtype)
    d_scale, d_shift = _new_nc(z), _new_nc(z)
    maps = (_map(grad, z), _map(out, z), z)
    _launch(_affine_grads_kernel, z, *maps, _nc(mean, z), masked, d_scale, d_shift, reduces=True)
    return grad if masked is None else masked, d_scale, d_shift


def input_grad(
    grad: torch.Tensor | None,
    scale: torch.Tensor | None,
    z: torch.Tensor,
    mean: torch.Tensor,
    slope: torch.Tensor,
    offset: torch.Tensor,
) -> torch.Tensor:
    """grad * scale + (z - mean) * slope + offset, in z's type."""
    if not _suits(z):
        return affine_reference.input_grad(grad, scale, z, mean, slope, offset)
    if grad is None or scale is None:
        grad = scale = None
    z = z.contiguous(memory_format=_layout(z))
    out = torch.empty_like(z)
    first = (_map(grad, z), _nc(scale, z), z)
    values = (_nc(mean, z), _nc(slope, z), _nc(offset, z))
    _launch(_input_grad_kernel, z, *first, *values, out)
    return out

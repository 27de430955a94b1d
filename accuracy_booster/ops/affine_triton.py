"""`affine` and `norm_terms` on a GPU: chooses the tiles and runs the Triton kernels.

The functions are those of `affine_reference`, which defines what they compute and takes the maps
that the kernels cannot. To run them on the CPU, for tests, set TRITON_INTERPRET=1 before
Triton is first imported.
"""

# N batch, C channels, H W space (or L, or D H W); values per sample and channel are [N, C]

from __future__ import annotations

import functools
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
import triton

from accuracy_booster.ops import affine_kernels, affine_reference, norm_kernels
from accuracy_booster.ops.map_layouts import like_map, memory_format, sample_values

TILE_SIZE = 2048  # elements: 2 to 4 loads of 16 bytes for each thread of 4 warps, few registers
WARP_SIZE = 512  # elements for a warp, 16 for each thread
ENOUGH_PROGRAMS = 1024  # they keep the memory of 132 processors busy, with 8 programs on each
TILE_N, TILE_C = 32, 32  # samples and channels of a tile of [N, C] values


@functools.lru_cache(maxsize=4096)  # each launch asks, and waits for the answer
def tile_shape(
    n: int, c: int, area: int, channels_last: bool, reduces: bool
) -> tuple[int, int, int]:
    """TILE_C, TILE_S and the number of warps for maps of n samples, c channels and area positions.

    The tile is long in the dimension that is contiguous in memory. In NCHW that is space. In
    channels_last it is the channels, of which a tile has up to 64: in bfloat16 they fill a cache
    line of 128 bytes. The other dimension then fills the tile up to TILE_SIZE.

    Args:
        reduces: the program goes through all of space, so that there are programs for samples and
            channels alone. If these are fewer than ENOUGH_PROGRAMS, each takes fewer channels, as
            long as it has WARP_SIZE elements, and in channels_last 16 channels: in bfloat16 these
            are 32 bytes, the least that is read from memory at once.
    """
    most_c, most_s = triton.next_power_of_2(c), triton.next_power_of_2(area)
    tile_c = min(most_c, 64) if channels_last else 1
    tile_s = min(most_s, TILE_SIZE // tile_c)
    tile_c = min(most_c, TILE_SIZE // tile_s)
    least_c = 16 if channels_last else 1
    while (
        reduces
        and n * triton.cdiv(c, tile_c) < ENOUGH_PROGRAMS
        and tile_c > least_c
        and tile_c * tile_s > WARP_SIZE
    ):
        tile_c //= 2
        tile_s = min(most_s, TILE_SIZE // tile_c)
    return tile_c, tile_s, min(max(tile_c * tile_s // WARP_SIZE, 1), 4)


def _new_sample_values(z: torch.Tensor) -> torch.Tensor:
    """An empty [N, C] in float32."""
    return z.new_empty(z.shape[:2], dtype=torch.float32)


def _kernels_can_take(z: torch.Tensor) -> bool:
    """Whether z is not empty and the kernels' 32-bit offsets within a sample suffice."""
    return z.numel() > 0 and z[0].numel() < 2**31


def _launch(kernel: Any, z: torch.Tensor, *args: Any, reduces: bool = False, **flags: Any) -> None:
    """Run a kernel over z, whose memory format is `memory_format(z)`."""
    n, c, area = z.shape[0], z.shape[1], z.shape[2:].numel()
    last = memory_format(z) is not torch.contiguous_format
    tile_c, tile_s, warps = tile_shape(n, c, area, last, reduces)
    programs = n * triton.cdiv(c, tile_c) * (1 if reduces else triton.cdiv(area, tile_s))
    strides = (1, c) if last else (area, 1)
    options: dict[str, Any] = {"TILE_C": tile_c, "TILE_S": tile_s, "num_warps": warps}
    options["enable_fp_fusion"] = True  # Triton's versions have different defaults, and warn
    with _current_gpu_of(z):
        kernel[(programs,)](*args, c, area, *strides, **flags, **options)


def _current_gpu_of(z: torch.Tensor) -> AbstractContextManager[Any]:
    """z's GPU is the current one, on which Triton runs a kernel."""
    other = z.is_cuda and z.device.index != torch.cuda.current_device()
    return torch.cuda.device(z.device) if other else nullcontext()


def sample_moments(z: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """z[N, C, H, W] -> mean[N, C] and variance[N, C] over space (correction 0)."""
    if not _kernels_can_take(z):
        return affine_reference.sample_moments(z)
    z = z.contiguous(memory_format=memory_format(z))
    mean, var = _new_sample_values(z), _new_sample_values(z)
    _launch(affine_kernels.sample_moments_kernel, z, z, mean, var, reduces=True)
    return mean, var


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
    if not _kernels_can_take(z):
        return affine_reference.affine(z, mean, scale, shift, residual, relu)
    z = z.contiguous(memory_format=memory_format(z))
    out = torch.empty_like(z)
    values = (sample_values(mean, z), sample_values(scale, z), sample_values(shift, z))
    _launch(affine_kernels.affine_kernel, z, z, *values, like_map(residual, z), out, RELU=relu)
    return out


def affine_grads(
    grad: torch.Tensor,
    out: torch.Tensor | None,
    z: torch.Tensor,
    mean: torch.Tensor | None,
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """The gradients of what `affine` adds up, of scale and of shift: `affine_reference`."""
    if not _kernels_can_take(z):
        return affine_reference.affine_grads(grad, out, z, mean)
    z = z.contiguous(memory_format=memory_format(z))
    masked = None if out is None else torch.empty_like(z, dtype=grad.dtype)
    d_scale, d_shift = _new_sample_values(z), _new_sample_values(z)
    given = (like_map(grad, z), like_map(out, z), z, sample_values(mean, z))
    results = (masked, d_scale, d_shift)
    _launch(affine_kernels.affine_grads_kernel, z, *given, *results, reduces=True)
    return grad if masked is None else masked, d_scale, d_shift


def input_grad(
    grad: torch.Tensor | None,
    scale: torch.Tensor | None,
    z: torch.Tensor,
    mean: torch.Tensor,
    slope: torch.Tensor,
    offset: torch.Tensor,
) -> torch.Tensor:
    """The gradient of z, grad * scale + (z - mean) * slope + offset: `affine_reference`."""
    if not _kernels_can_take(z):
        return affine_reference.input_grad(grad, scale, z, mean, slope, offset)
    if grad is None or scale is None:
        grad = scale = None
    z = z.contiguous(memory_format=memory_format(z))
    out = torch.empty_like(z)
    first = (like_map(grad, z), sample_values(scale, z), z)
    values = (sample_values(mean, z), sample_values(slope, z), sample_values(offset, z))
    _launch(affine_kernels.input_grad_kernel, z, *first, *values, out)
    return out


def _launch_norm_terms(kernel: Any, like: torch.Tensor, *args: Any) -> None:
    """Run a kernel over the channels of like[N, C]; its arguments are args[:-1], N, C, args[-1]."""
    n, c = like.shape
    programs = triton.cdiv(c, TILE_C)
    options = {"TILE_N": TILE_N, "TILE_C": TILE_C, "enable_fp_fusion": True}
    with _current_gpu_of(like):
        kernel[(programs,)](*args[:-1], n, c, args[-1], **options)


def _contiguous(v: torch.Tensor | None) -> torch.Tensor | None:
    """v as contiguous float32."""
    return None if v is None else v.float().contiguous()


def norm_terms(
    mean_nc: torch.Tensor,
    var_nc: torch.Tensor,
    weight: torch.Tensor | None,
    bias: torch.Tensor | None,
    eps: float,
) -> tuple[torch.Tensor, ...]:
    """mean, var, inv_std and scale [C], descriptor [N, C]: `affine_reference`."""
    if not mean_nc.numel():
        return affine_reference.norm_terms(mean_nc, var_nc, weight, bias, eps)
    results = (*mean_nc.new_empty(4, mean_nc.shape[1]), torch.empty_like(mean_nc))
    given = (mean_nc, var_nc, _contiguous(weight), _contiguous(bias))
    _launch_norm_terms(norm_kernels.norm_terms_kernel, mean_nc, *given, *results, eps)
    return results


def norm_terms_grads(
    d_mean_nc: torch.Tensor | None,
    d_scale: torch.Tensor | None,
    d_descriptor: torch.Tensor,
    mean_nc: torch.Tensor,
    mean: torch.Tensor,
    inv_std: torch.Tensor,
    scale: torch.Tensor,
    area: int,
) -> tuple[torch.Tensor, ...]:
    """The gradients of weight and bias [C], slope and offset [N, C]: `affine_reference`."""
    grads = (d_mean_nc, d_scale, d_descriptor)
    terms = (mean_nc, mean, inv_std, scale)
    if not mean_nc.numel():
        return affine_reference.norm_terms_grads(*grads, *terms, area)
    results = (*mean_nc.new_empty(2, mean_nc.shape[1]), *mean_nc.new_empty(2, *mean_nc.shape))
    given = (*map(_contiguous, grads), *terms, *results, float(area))
    _launch_norm_terms(norm_kernels.norm_terms_grads_kernel, mean_nc, *given)
    return results

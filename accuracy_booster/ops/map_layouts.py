"""Arguments in the memory layout that kernels assume: one of two for a map, none with gaps."""

# N batch, C channels, H W space (or L, or D H W); values per sample and channel are [N, C]

from __future__ import annotations

import torch


def memory_format(z: torch.Tensor) -> torch.memory_format:
    """NCHW or channels_last: z's own memory format, or the nearer one if z has neither."""
    if z.is_contiguous() or z.ndim < 4:  # for [N, C, L] torch has no other
        return torch.contiguous_format
    near = z.stride(1) == 1 and z.shape[1] > 1
    last = torch.channels_last if z.ndim == 4 else torch.channels_last_3d
    return last if near else torch.contiguous_format


def like_map(x: torch.Tensor | None, z: torch.Tensor) -> torch.Tensor | None:
    """x with the shape and the memory format that the kernels assume for z: x itself or a copy."""
    if x is None or (x.shape == z.shape and x.stride() == z.stride()):
        return x
    return x.expand_as(z).contiguous(memory_format=memory_format(z))


def sample_values(
    v: torch.Tensor | None, z: torch.Tensor, dtype: torch.dtype = torch.float32
) -> torch.Tensor | None:
    """v[N, C] as a contiguous tensor of `dtype`."""
    if v is None or (v.dtype == dtype and v.shape == z.shape[:2] and v.is_contiguous()):
        return v
    return v.to(dtype).expand(z.shape[:2]).contiguous()

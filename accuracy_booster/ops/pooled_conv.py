"""The mean over space of a convolution's output, computed from the convolution's input.

The mean over space (GAP) commutes with a convolution. For a 1x1 kernel, GAP(W h + b) = W GAP(h) +
b. For a larger kernel at stride 1, each tap t (position in the kernel) reads a rectangle of the
input h, which lacks some rows and columns at the borders:

    GAP(conv(h)) = sum over t of W_t (sum of h over t's rectangle) / (H' W') + b

H' W' is how many positions the output has. `fastpath` uses this to know a gate's weights before the
convolution runs.
"""

# N batch, C channels in, K channels out, H W space (or L, or D H W)

from __future__ import annotations

import itertools
from typing import Any

import torch
from torch import nn

from accuracy_booster.ops.precision import accumulation_dtype

Conv = nn.Conv1d | nn.Conv2d | nn.Conv3d


def has_pooled_form(conv: nn.Module) -> bool:
    """Whether `pooled_conv` takes this layer: padded with zeros, and of stride 1 or kernel 1x1."""
    if not isinstance(conv, Conv):
        return False
    strided = any(step != 1 for step in conv.stride)
    pads = isinstance(conv.padding, tuple)
    return conv.padding_mode == "zeros" and pads and (_is_pointwise(conv) or not strided)


def _is_pointwise(conv: Conv) -> bool:
    return all(k == 1 for k in conv.kernel_size) and all(p == 0 for p in conv.padding)


def pooled_conv(h: torch.Tensor, conv: Conv) -> torch.Tensor:
    """h[N, C, H, W] -> the mean [N, K] over space of conv(h); float32 for 16-bit h.

    It is exact but for rounding, reads h once, and otherwise costs as much as the convolution at
    one position.
    """
    dtype = accumulation_dtype(h.dtype)
    taps, area = tap_sums(h, conv)
    weight = conv.weight.to(dtype).flatten(2)  # [K, C / g, taps]
    n, groups = len(h), conv.groups
    if groups == 1:
        total = taps.flatten(1) @ weight.flatten(1).t()
    else:
        split = taps.unflatten(1, (groups, -1)).flatten(2)  # [N, g, C / g * taps]
        per_group = weight.flatten(1).unflatten(0, (groups, -1))  # [g, K / g, C / g * taps]
        total = torch.einsum("ngi,goi->ngo", split, per_group).reshape(n, -1)
    mean = total / area
    return mean if conv.bias is None else mean + conv.bias.to(dtype)


def tap_sums(h: torch.Tensor, conv: Conv) -> tuple[torch.Tensor, int]:
    """The sums of what each tap of the kernel reads of h[N, C, H, W], and the output's positions.

    Returns:
        [N, C, taps], in the order of the kernel's positions; float32 for 16-bit h. And H' * W'.
    """
    dtype = accumulation_dtype(h.dtype)
    space = tuple(range(2, h.ndim))
    if _is_pointwise(conv):
        strides: Any = [slice(None, None, step) for step in conv.stride]
        seen = h[(..., *strides)] if any(step != 1 for step in conv.stride) else h
        return seen.sum(space, dtype=dtype)[:, :, None], seen.shape[2:].numel()
    ranges, area = [], 1
    for dim in space:
        taken, outputs = _ranges(h.shape[dim], conv, dim - 2)
        ranges.append(taken)
        area *= outputs
    lines = h.sum(-1, dtype=dtype)  # [N, C, H]; from these the borders are subtracted
    sums: dict[tuple[tuple[int, int], ...], torch.Tensor] = {}
    for first, last in dict.fromkeys(ranges[-1]):
        line = lines
        if first:
            line = line - h[..., :first].sum(-1, dtype=dtype)
        if last < h.shape[-1]:
            line = line - h[..., last:].sum(-1, dtype=dtype)
        sums[((first, last),)] = line
    for taken in reversed(ranges[:-1]):  # of the other dimensions the ranges are summed directly
        sums = {
            ((top, end), *rest): line[..., top:end].sum(-1)
            for rest, line in sums.items()
            for top, end in dict.fromkeys(taken)
        }
    taps = [sums[tap] for tap in itertools.product(*ranges)]
    return torch.stack(taps, 2), area


def _ranges(side: int, conv: Conv, dim: int) -> tuple[list[tuple[int, int]], int]:
    """Along one dimension of space: [first, last) of the input for each tap, and the output's size.

    `side` is the input's size, and `dim` counts the dimensions of space.
    """
    kernel, step = conv.kernel_size[dim], conv.dilation[dim]
    pad = int(conv.padding[dim])
    outputs = side + 2 * pad - step * (kernel - 1)
    found = []
    for tap in range(kernel):
        first = tap * step - pad
        top = min(max(first, 0), side)
        found.append((top, max(top, min(side, first + outputs))))
    return found, outputs

"""The mean over space of a convolution's output, from the convolution's input.

Pooling commutes with a convolution: for 1x1, GAP(W h + b) = W GAP(h) + b; for a larger kernel each
tap sees the input less some rows and columns at the borders, and its sum is that of all less those.
"""

# N batch, C channels in, K channels out, H W space

from __future__ import annotations

import torch
from torch import nn

from accuracy_booster.ops.precision import accumulation_dtype


def has_pooled_form(conv: nn.Conv2d) -> bool:
    """Whether `pooled_conv` knows this convolution: 1x1, or stride 1; zero padding."""
    strided = tuple(conv.stride) != (1, 1)
    pads = isinstance(conv.padding, tuple)
    return conv.padding_mode == "zeros" and pads and (_is_pointwise(conv) or not strided)


def _is_pointwise(conv: nn.Conv2d) -> bool:
    return tuple(conv.kernel_size) == (1, 1) and tuple(conv.padding) == (0, 0)


def pooled_conv(h: torch.Tensor, conv: nn.Conv2d) -> torch.Tensor:
    """h[N, C, H, W] -> the mean [N, K] over space of conv(h), exactly; float32 for 16-bit h.

    It reads h once and costs as much as the convolution at one position.
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


def tap_sums(h: torch.Tensor, conv: nn.Conv2d) -> tuple[torch.Tensor, int]:
    """h[N, C, H, W] -> [N, C, taps]: what each tap of the kernel sums over all outputs; H' W'."""
    dtype = accumulation_dtype(h.dtype)
    if _is_pointwise(conv):
        down, right = conv.stride
        seen = h if (down, right) == (1, 1) else h[:, :, ::down, ::right]
        return seen.sum((2, 3), dtype=dtype)[:, :, None], seen.shape[2] * seen.shape[3]
    rows, height = _ranges(h.shape[2], conv, 0)
    columns, width = _ranges(h.shape[3], conv, 1)
    lines = h.sum(3, dtype=dtype)  # [N, C, H]
    sums = {}
    for first, last in dict.fromkeys(columns):
        line = lines
        if first:
            line = line - h[..., :first].sum(3, dtype=dtype)
        if last < h.shape[3]:
            line = line - h[..., last:].sum(3, dtype=dtype)
        for top, end in dict.fromkeys(rows):
            sums[top, end, first, last] = line[:, :, top:end].sum(2)
    taps = [sums[row + column] for row in rows for column in columns]
    return torch.stack(taps, 2), height * width


def _ranges(side: int, conv: nn.Conv2d, dim: int) -> tuple[list[tuple[int, int]], int]:
    """Which positions of the input each tap reads along a dimension; the outputs along it."""
    kernel, step = conv.kernel_size[dim], conv.dilation[dim]
    pad = int(conv.padding[dim])
    outputs = side + 2 * pad - step * (kernel - 1)
    found = []
    for tap in range(kernel):
        first = tap * step - pad
        top = min(max(first, 0), side)
        found.append((top, max(top, min(side, first + outputs))))
    return found, outputs

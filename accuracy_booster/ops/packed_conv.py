"""A convolution with packed weights that is finished in one pass: gate, shortcut and activation.

    out = clamp((conv(x) + bias) * p + shortcut, low, high)

p[N, K] are the weights of a gate.

`packed_conv.cpp` is the kernel, for float32 maps in channels-last memory on a processor with AVX2.
Elsewhere the operator `accuracy_booster::packed_conv` is computed by `reference`, which defines the
result. The kernel computes sums of products, or a 3x3 convolution in Winograd's form.

Packing. The weight [K, C / G, kh, kw] of a convolution with G groups becomes [G, B, L, W]. L is the
position in the window and the input channel, kh * kw * C / G, in this order. The K / G output
channels of a group lie in B panels of W = 32 columns (16 where a group has no more), padded with
zeros. So the kernel reads the weights of a panel from the first to the last. In Winograd's form
there is one matrix for each of the A * A points of a tile: [A * A, B, C, W].
"""

# N batch, C input channels, K output channels, H W space, P Q space of the output, G groups

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn

from accuracy_booster.ops import native_code, winograd
from accuracy_booster.ops.precision import accumulation_dtype
from accuracy_booster.ops.rescaling import rescale

SOURCE = "packed_conv.cpp"
WIDTHS = (16, 32)  # columns of a panel

_library = torch.library.Library("accuracy_booster", "FRAGMENT")
_GEOMETRY = (
    "int out_channels, int[2] kernel_size, int[2] stride, int[2] padding, int[2] dilation, "
    "int groups"
)
_GATE = "Tensor? scale, Tensor? gate, Tensor? means"
_END = "float? low, float? high, int[3] schedule"
_library.define(
    f"packed_conv(Tensor x, Tensor packed, Tensor? bias, {_GEOMETRY}, {_GATE}, "
    f"Tensor? shortcut, {_END}) -> Tensor",
    tags=(torch.Tag.needs_fixed_stride_order,),
)
# the same, written where the shortcut is; `fastpath.joining` uses it in compiled networks
_library.define(
    f"packed_conv_onto(Tensor(a!) shortcut, Tensor x, Tensor packed, Tensor? bias, {_GEOMETRY}, "
    f"{_GATE}, {_END}) -> ()",
    tags=(torch.Tag.needs_fixed_stride_order,),
)


@dataclass(frozen=True)
class Schedule:
    """In which form and order the kernel computes a convolution.

    Attributes:
        positions: how many positions of the output a task has; in Winograd's form, how many tiles.
        panels: how many panels of the weights a task has. The kernel makes tasks smaller where
            there are too few for all threads.
        outputs: 0 for sums of products; 2 or 4 for Winograd's form with so many outputs a side.
    """

    positions: int = 56
    panels: int = 1 << 30
    outputs: int = 0

    def as_list(self) -> list[int]:
        """As the operator takes it."""
        return [self.positions, self.panels, self.outputs]


# A block of positions for all panels: the block stays in the cache. Or one panel for all positions:
# the panel does, which pays where the weights are larger than the map.
BY_POSITIONS, BY_PANELS = Schedule(), Schedule(1 << 30, 1)


def why_not(conv: nn.Module) -> str | None:
    """Why a convolution cannot be packed, in a few words; None if it can."""
    if not isinstance(conv, nn.Conv2d):
        return f"a {type(conv).__name__} is no 2-D convolution"
    if conv.padding_mode != "zeros" or isinstance(conv.padding, str):
        return f"its padding is {conv.padding_mode}, {conv.padding}"
    if conv.groups > 1 and conv.in_channels == conv.groups:
        return "a depthwise convolution"
    if conv.weight.dtype != torch.float32 or conv.weight.device.type != "cpu":
        return f"its weights are {conv.weight.dtype} on {conv.weight.device.type}"
    return native_code.load(SOURCE)


def pack(weight: torch.Tensor, groups: int, outputs: int = 0) -> torch.Tensor:
    """weight[K, C / G, kh, kw] -> [G, B, L, W]; in Winograd's form [A * A, B, C, W].

    Args:
        weight: of the convolution.
        groups: G.
        outputs: of the schedule.
    """
    weight = weight.detach()
    if outputs:
        rows = winograd.transform(weight, outputs)
    else:
        rows = weight.permute(0, 2, 3, 1).reshape(groups, len(weight) // groups, -1)
    channels = rows.shape[1]
    width = next((w for w in WIDTHS if channels <= w), WIDTHS[-1])
    panels = -(-channels // width)
    rows = F.pad(rows, (0, 0, 0, panels * width - channels))
    return rows.unflatten(1, (panels, width)).transpose(2, 3).contiguous()


def unpack(
    packed: torch.Tensor, out_channels: int, kernel_size: list[int], outputs: int = 0
) -> torch.Tensor:
    """What `pack` gives -> weight[K, C / G, kh, kw]."""
    rows = packed.transpose(2, 3).flatten(1, 2)
    if outputs:
        return winograd.transform_back(rows[:, :out_channels], outputs)
    rows = rows[:, : out_channels // len(packed)]
    taps = kernel_size[0] * kernel_size[1]
    weight = rows.unflatten(2, (taps, -1)).transpose(2, 3)
    return weight.reshape(out_channels, -1, *kernel_size)


def reference(
    x: torch.Tensor,
    packed: torch.Tensor,
    bias: torch.Tensor | None,
    out_channels: int,
    kernel_size: list[int],
    stride: list[int],
    padding: list[int],
    dilation: list[int],
    groups: int,
    scale: torch.Tensor | None,
    gate: torch.Tensor | None,
    means: torch.Tensor | None,
    shortcut: torch.Tensor | None,
    low: float | None,
    high: float | None,
    schedule: list[int],
) -> torch.Tensor:
    """The operator in torch's own operations.

    Args:
        x: [N, C, H, W].
        packed: what `pack` gives.
        bias: [K].
        out_channels: K.
        scale: [N, K], such as the weights of a gate that are known before.
        gate: [3, K] in place of `scale`: the weights are gate[2] * sigmoid(gate[0] * d + gate[1]),
            where d[N, K] is the mean over space of the convolution. Only for G = 1, and not in
            Winograd's form.
        means: [N, kh * kw * C], for `gate` and a kernel larger than 1x1: the mean of what each tap
            of the kernel reads. They do not change the result: the kernel takes d from them.
        shortcut: [N, K, P, Q].
        low, high: the least and the largest output; 0 and None for a ReLU.
        schedule: `Schedule.as_list`; it changes the result by rounding errors alone.

    Returns:
        [N, K, P, Q] in channels-last memory.
    """
    weight = unpack(packed, out_channels, kernel_size, schedule[2])
    y = F.conv2d(x, weight, bias, stride, padding, dilation, groups)
    y = finish(y, scale, gate, shortcut, low, high)
    return y.contiguous(memory_format=torch.channels_last)


def finish(
    y: torch.Tensor,
    scale: torch.Tensor | None,
    gate: torch.Tensor | None,
    shortcut: torch.Tensor | None,
    low: float | None,
    high: float | None,
) -> torch.Tensor:
    """What follows the convolution's output y[N, K, P, Q], in torch's operations: `reference`."""
    if gate is not None:
        weight, constant, factor = gate
        mean = y.mean((2, 3), dtype=accumulation_dtype(y.dtype))
        scale = factor * torch.sigmoid(weight * mean + constant)
    if scale is not None:
        y = rescale(y, scale)
    if shortcut is not None:
        y = y + shortcut
    return y if low is None and high is None else y.clamp(low, high)


def _onto(shortcut: torch.Tensor, x: torch.Tensor, *given: Any) -> None:
    *before, low, high, schedule = given
    shortcut.copy_(reference(x, *before, shortcut, low, high, schedule))  # type: ignore[call-arg]


_library.impl("packed_conv", reference, "CompositeExplicitAutograd")
_library.impl("packed_conv_onto", _onto, "CompositeExplicitAutograd")
torch.library.register_fake("accuracy_booster::packed_conv_onto", lambda *_: None)


def output_shape(
    shape: Sequence[int],
    out_channels: int,
    kernel_size: Sequence[int],
    stride: Sequence[int],
    padding: Sequence[int],
    dilation: Sequence[int],
) -> tuple[int, ...]:
    """[N, C, H, W] -> [N, K, P, Q] of a convolution."""
    sides = [
        (side + 2 * pad - step * (kernel - 1) - 1) // by + 1
        for side, kernel, by, pad, step in zip(
            shape[2:], kernel_size, stride, padding, dilation, strict=True
        )
    ]
    return (shape[0], out_channels, *sides)


@torch.library.register_fake("accuracy_booster::packed_conv")
def _fake(
    x: torch.Tensor,
    packed: torch.Tensor,
    bias: torch.Tensor | None,
    out_channels: int,
    *geometry: Any,
) -> torch.Tensor:
    kernel_size, stride, padding, dilation, *_ = geometry
    shape = output_shape(x.shape, out_channels, kernel_size, stride, padding, dilation)
    return x.new_empty(shape).contiguous(memory_format=torch.channels_last)

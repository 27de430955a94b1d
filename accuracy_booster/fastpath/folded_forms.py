"""From which map a folded gate takes its means, and which choice reads less memory."""

# N batch, C channels in, K channels out

from __future__ import annotations

import math

from torch import nn

from accuracy_booster.blocks import Recalibrate
from accuracy_booster.fastpath.fold_algebra import (
    Layer,
    affine_segments,
    is_channelwise,
    width_after,
)
from accuracy_booster.ops.packed_conv import why_not
from accuracy_booster.ops.pooled_conv import has_pooled_form

FORMS = {  # as reports tell them
    "input": "from the mean of the convolution's input",
    "output": "from the mean of its output",
    "kernel": "inside the convolution's kernel",
}

# How long reading takes, fitted to what `benchmarks/sites.py` measures. A map that has just been
# written and fits in a cache of this many bytes is read in a third of the time of a larger one. A
# matrix is read anew for every batch, which takes as long as reading a map of three times its size.
CACHE_BYTES, CACHED, MATRIX = 16 << 20, 1 / 3, 3


def takes_gate(conv: Layer, gate: Recalibrate) -> bool:
    """Whether the kernel of a packed convolution can compute this gate on its way."""
    if not isinstance(conv, nn.Conv2d) or conv.groups != 1 or why_not(conv) is not None:
        return False
    segments = affine_segments(gate)
    knows_mean = conv.kernel_size == (1, 1) or has_pooled_form(conv)
    return len(segments) == 1 and is_channelwise(segments[0]) and knows_mean


def choose_form(
    conv: Layer,
    gate: Recalibrate,
    input_shape: tuple[int, ...],
    output_shape: tuple[int, ...],
    *,
    packs: bool = False,
) -> str:
    """ "input" or "output": the side of the layer on which the gate reads fewer bytes.

    Args:
        conv: the layer before the gate, with the norm folded in.
        gate: one that reads each channel's mean.
        input_shape: [N, C, ...] that the layer reads.
        output_shape: [N, K, ...] that it writes.
        packs: whether the convolution may run in our kernel, which multiplies by a gate's weights
            only if they are known before. On the side of the output the map is then written and
            read once more.
    """
    if isinstance(conv, nn.Linear) or not has_pooled_form(conv):
        return "output"
    first = affine_segments(gate)[0]
    size, taps = conv.weight.element_size(), math.prod(conv.kernel_size)
    # the convolution's weights become a part of the first stage: [width, C * taps]
    merged_matrix = width_after(first, conv.out_channels) * conv.in_channels * taps
    before = size * (math.prod(input_shape) + MATRIX * merged_matrix)
    matrix = 0 if is_channelwise(first) else sum(p.numel() for m in first for p in m.parameters())
    written = size * math.prod(output_shape)
    passes = 3 if packs else 1
    after = passes * written * (CACHED if written < CACHE_BYTES else 1) + size * MATRIX * matrix
    return "input" if before < after else "output"

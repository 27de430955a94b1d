"""The weights of a gate from the map that a convolution reads, before the convolution runs.

    p = scale * sigmoid(the stages(the means of what each tap of the kernel reads))

The mean over space commutes with a convolution (`pooled_conv`). So a gate that reads the mean of a
convolution's output can read the convolution's input, with the kernel as a part of the first stage.
`gate_of_map.h` computes it in one step; `reference` defines the result.
"""

# N batch, C channels of the map, K channels of the gate, H W space, T taps of the kernel

from __future__ import annotations

from typing import Any, NamedTuple

import torch
import torch.nn.functional as F

from accuracy_booster.ops.pooled_conv import tap_sums

_library = torch.library.Library("accuracy_booster", "FRAGMENT")
_library.define(
    "gate_of_map(Tensor x, int[2] kernel_size, int[2] stride, int[2] padding, int[2] dilation, "
    "Tensor[] weights, Tensor[] biases, float scale) -> Tensor"
)


class _Geometry(NamedTuple):
    kernel_size: tuple[int, ...]
    stride: tuple[int, ...]
    padding: tuple[int, ...]
    dilation: tuple[int, ...]


def reference(
    x: torch.Tensor,
    kernel_size: list[int],
    stride: list[int],
    padding: list[int],
    dilation: list[int],
    weights: list[torch.Tensor],
    biases: list[torch.Tensor],
    scale: float,
) -> torch.Tensor:
    """The operator in torch's own operations.

    Args:
        x: [N, C, H, W].
        kernel_size, stride, padding, dilation: of the convolution, which is 1x1 without padding, or
            has stride 1.
        weights: of each stage: [K] for a product of each number, or [K, L] for a matrix, where L is
            how many numbers go in. C * T go into the first stage, the taps of a channel in a row.
            A ReLU stands between two stages.
        biases: [K] of each stage.
        scale: what the sigmoid is multiplied by.

    Returns:
        p[N, K].
    """
    given = (kernel_size, stride, padding, dilation)
    geometry: Any = _Geometry(*(tuple(pair) for pair in given))
    sums, positions = tap_sums(x, geometry)
    d = sums.flatten(1) / positions
    for i, (weight, bias) in enumerate(zip(weights, biases, strict=True)):
        d = F.relu(d) if i else d
        d = d * weight + bias if weight.ndim == 1 else F.linear(d, weight, bias)
    return scale * torch.sigmoid(d)


_library.impl("gate_of_map", reference, "CompositeExplicitAutograd")


@torch.library.register_fake("accuracy_booster::gate_of_map")
def _fake(
    x: torch.Tensor,
    kernel_size: Any,
    stride: Any,
    padding: Any,
    dilation: Any,
    weights: list[torch.Tensor],
    biases: list[torch.Tensor],
    scale: float,
) -> torch.Tensor:
    return x.new_empty(x.shape[0], weights[-1].shape[0])

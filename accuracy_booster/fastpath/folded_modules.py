"""The modules of a folded network: a gate without norms, and a convolution that applies it."""

# N batch, C channels in, K channels out, H W space (or L, or D H W, or nothing: [N, C])

from __future__ import annotations

import copy
from collections.abc import Iterable
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn

from accuracy_booster.blocks import Bottleneck, Dense, Gate, GateNorm
from accuracy_booster.ops import (
    accumulation_dtype,
    backend,
    leaf_module,
    rescale,
    without_autocast,
)
from accuracy_booster.ops import (
    affine as fused,
)
from accuracy_booster.ops.deferred import Pending
from accuracy_booster.ops.pooled_conv import tap_sums
from accuracy_booster.surgery.hooks import is_read

FORMS = {
    "input": "from the mean of the convolution's input",
    "output": "from the mean of its output",
}


class Scale(nn.Module):
    """d[N, C] -> weight * d + bias, one of each per channel."""

    def __init__(self, weight: torch.Tensor, bias: torch.Tensor):
        super().__init__()
        self.weight = nn.Parameter(weight)
        self.bias = nn.Parameter(bias)

    def forward(self, d: torch.Tensor) -> torch.Tensor:
        return torch.addcmul(self.bias, d, self.weight)


def linear(weight: torch.Tensor, bias: torch.Tensor) -> nn.Linear:
    """A linear layer with these weight[K, C] and bias[K]."""
    layer = nn.Linear(weight.shape[1], weight.shape[0], device="meta")
    layer.weight, layer.bias = nn.Parameter(weight), nn.Parameter(bias)
    return layer


class FoldedGate(nn.Module):
    """What a gate computes from means, its norms and neighbouring linear layers made one.

    `stages` are affine, with a ReLU between them; p = scale * sigmoid(the last one's).
    """

    def __init__(self, stages: Iterable[nn.Module], scale: float):
        super().__init__()
        self.stages = nn.Sequential(*stages)
        self.scale = scale

    def forward(self, d: torch.Tensor) -> torch.Tensor:
        """d[N, C], float32 for 16-bit networks -> p[N, K]."""
        first, *rest = self.stages
        d = first(d)
        for stage in rest:
            d = stage(F.relu(d))
        p = torch.sigmoid(d)
        return p if self.scale == 1 else self.scale * p


def segments(gate: Gate) -> list[list[nn.Module]]:
    """The gate's affine layers, in eval mode and float64; a ReLU stands between the segments."""
    found: list[list[nn.Module]] = [[]]
    for name in [*gate._shared, *gate._joint]:
        layer = getattr(gate, name)
        if isinstance(layer, nn.Sigmoid):
            continue
        layer = copy.deepcopy(layer).double().eval()
        if isinstance(layer, Bottleneck):
            found[-1].append(layer.reduce)
            found.append([layer.expand])
        else:
            found[-1].append(layer)
    return found


def is_diagonal(layers: list[nn.Module]) -> bool:
    """Whether each channel depends on itself alone."""
    return all(isinstance(m, GateNorm) or (isinstance(m, Dense) and m.depthwise) for m in layers)


@torch.no_grad()
def after(
    layers: list[nn.Module], weight: torch.Tensor, bias: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """The affine map of `layers` after d -> weight d + bias: its weight[K, C] and bias[K]."""
    columns, moved = weight.double().t(), bias.double()[None]
    zero = torch.zeros_like(moved)
    for layer in layers:
        columns, moved = layer(columns) - layer(zero), layer(moved)
        zero = torch.zeros_like(moved)
    return columns.t().contiguous(), moved[0]


@torch.no_grad()
def stage(layers: list[nn.Module], width: int) -> nn.Module:
    """One module for a segment on d[N, width], float64: a scale, or layers without norms."""
    like = next(p for m in layers for p in m.parameters()) if layers else torch.empty(0)
    merged: list[nn.Module] = []
    for layer in layers:
        if not is_diagonal([layer]):
            merged.append(layer)
            width = len(layer.weight) if isinstance(layer, Dense) else width
            continue
        zero = torch.zeros(1, width, dtype=torch.float64, device=like.device)
        bias = layer(zero)[0]
        weight = layer(zero + 1)[0] - bias
        before = merged[-1] if merged else None
        if isinstance(before, Dense | Scale):
            rows = weight[:, None] if isinstance(before, Dense) else weight
            moved = bias if before.bias is None else before.bias * weight + bias
            before.weight, before.bias = nn.Parameter(before.weight * rows), nn.Parameter(moved)
        else:
            merged.append(Scale(weight, bias))
    return merged[0] if len(merged) == 1 else nn.Sequential(*merged)


class GatedConv(nn.Module):
    """conv(h) times its gate, which is known before the convolution runs (form "input").

    `conv` may be a linear layer on [N, C]. `then` is what follows, as `surgery.flow.Flow.then`.
    """

    def __init__(
        self,
        conv: nn.Module,
        gate: FoldedGate,
        form: str,
        then: str,
        around: Iterable[nn.Module] = (),
    ):
        super().__init__()
        self.conv, self.gate = conv, gate
        self.form, self.then = form, then
        self.around = tuple(around)  # the other modules whose output this one's is

    def extra_repr(self) -> str:
        return f"form={self.form}"

    @leaf_module(waits=False)  # of a graph anybody may read any node
    def forward(self, h: torch.Tensor, waits: bool = True) -> Any:
        dtype = accumulation_dtype(h.dtype)
        if self.form == "input":
            p = self._weights(self._pooled(h), dtype)
            z = self.conv(h)
        else:
            z = self.conv(h)
            wide = accumulation_dtype(z.dtype)
            space = tuple(range(2, z.ndim))
            p = self._weights(z.mean(space, dtype=wide) if space else z.to(wide), dtype)
        waits = bool(waits and self.then) and not fused.traced(z) and not backend.is_plain()
        if waits and not is_read(self, *self.around):
            return Pending(z, None, p, None, last=self.then)
        return rescale(z, p)

    def _pooled(self, h: torch.Tensor) -> torch.Tensor:
        """h[N, C, ...] -> what each tap sees on average, [N, C * taps]."""
        taps, area = tap_sums(h, self.conv)  # type: ignore[arg-type]
        return taps.flatten(1) / area

    def _weights(self, d: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
        with without_autocast(d):
            return self.gate(d).to(dtype)


class GatedConv2d(GatedConv):
    """The same on [N, C, H, W]."""

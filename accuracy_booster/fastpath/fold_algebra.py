"""The formulas of folding: a norm into the layer before it, and a gate into affine maps.

They take layers and gates and give new ones. No network is looked at here. All is computed in
float64, in eval mode.

Norm. Let W, c be the layer's weight and bias, mu, var the running statistics, and
a = gamma / sqrt(var + eps). Then BN(W x + c) = (a W) x + a (c - mu) + beta.

Gate. Its layers are affine, except for ReLUs and the sigmoid at the end. So they are segments
d -> A d + b with a ReLU between two segments. There are two forms:

- "output": the first segment reads d, the mean over space of the map that the gate scales, [N, K].
- "input": that mean is d = M t + c. t[N, C * taps] are the means of what each tap of the kernel
  sees, and M[K, C * taps] is the kernel as a matrix. The first segment becomes
  A (M t + c) + b = (A M) t + (A c + b), which can be computed before the convolution runs.
"""

# N batch, C channels in, K channels out

from __future__ import annotations

import copy

import torch
from torch import nn

from accuracy_booster.blocks import Bottleneck, Dense, GateNorm, Recalibrate
from accuracy_booster.fastpath.folded_modules import FoldedGate, Scale
from accuracy_booster.fastpath.layer_classes import LAYERS, NORMS
from accuracy_booster.ops import accumulation_dtype
from accuracy_booster.ops.pooled_conv import Conv

Layer = Conv | nn.Linear


@torch.no_grad()
def fold_norm(layer: nn.Module, norm: nn.Module) -> Layer:
    """A new layer that computes norm(layer(x)) as in eval mode; `layer` does not change.

    Args:
        layer: one of `layer_classes.LAYERS`.
        norm: one of `layer_classes.NORMS`, with running statistics.
    """
    assert isinstance(layer, LAYERS)
    assert isinstance(norm, NORMS)
    assert norm.running_mean is not None
    assert norm.running_var is not None
    scale = torch.rsqrt(norm.running_var.double() + norm.eps)
    if norm.weight is not None:
        scale = scale * norm.weight.double()
    bias = -norm.running_mean.double()
    if layer.bias is not None:
        bias = bias + layer.bias.double()
    bias = bias * scale
    if norm.bias is not None:
        bias = bias + norm.bias.double()
    new = copy.copy(layer)
    new._parameters = dict(layer._parameters)
    rows = scale.view(-1, *[1] * (layer.weight.ndim - 1))
    weight = (layer.weight.double() * rows).to(layer.weight.dtype)
    new.weight = nn.Parameter(weight, layer.weight.requires_grad)
    new.bias = nn.Parameter(bias.to(layer.weight.dtype), layer.weight.requires_grad)
    return new


@torch.no_grad()
def fold_gate(layer: Layer, gate: Recalibrate, form: str) -> FoldedGate:
    """The gate as it reads means around a layer, in a form of `folded_forms.FORMS`.

    Args:
        layer: the layer before the gate, with the norm folded in; a convolution for "input".
        gate: one that reads each channel's mean.
        form: "input"; or "output" or "kernel", which read the mean of the layer's output.
    """
    dtype = accumulation_dtype(layer.weight.dtype)
    if form != "input":
        return fold_gate_of_output(gate, dtype)
    assert not isinstance(layer, nn.Linear)
    first = affine_segments(gate)[0]
    matrix = _kernel_matrix(layer)
    bias = matrix.new_zeros(len(matrix)) if layer.bias is None else layer.bias.double()
    folded = fold_gate_of_output(gate, dtype)
    stages = [_linear_layer(*_after(first, matrix, bias)).to(dtype), *folded.stages[1:]]
    return FoldedGate(stages, folded.scale).eval()


@torch.no_grad()
def fold_gate_of_output(gate: Recalibrate, dtype: torch.dtype) -> FoldedGate:
    """The gate as it reads the mean over space of the map that it scales, [N, C].

    Args:
        gate: one that reads each channel's mean.
        dtype: of the weights.
    """
    stages, width = [], gate.channels
    for layers in affine_segments(gate):
        stages.append(_one_module(layers, width))
        width = width_after(layers, width)
    return FoldedGate(stages, gate.recipe.gates[0].scale).to(dtype).eval()


def affine_segments(gate: Recalibrate) -> list[list[nn.Module]]:
    """Copies of the gate's affine layers, float64 and in eval mode: a list for each segment.

    A ReLU stands between two segments, and the sigmoid after the last one. A segment may be empty.
    """
    own = gate[0]
    found: list[list[nn.Module]] = [[]]
    for name in [*own._shared, *own._joint]:  # type: ignore[misc, union-attr]  # of blocks.Gate
        layer = getattr(own, name)
        if isinstance(layer, nn.Sigmoid):
            continue
        if isinstance(layer, nn.ReLU):
            found.append([])
            continue
        layer = copy.deepcopy(layer).double().eval()
        if isinstance(layer, Bottleneck):
            found[-1].append(layer.reduce)
            found.append([layer.expand])
        else:
            found[-1].append(layer)
    return found


def is_channelwise(layers: list[nn.Module]) -> bool:
    """Whether each channel that comes out depends on the same channel of the input alone."""
    return all(isinstance(m, GateNorm) or (isinstance(m, Dense) and m.depthwise) for m in layers)


def width_after(layers: list[nn.Module], width: int) -> int:
    """How many values come out of affine layers that `width` values go into."""
    for layer in layers:
        weight = getattr(layer, "weight", None)
        if weight is not None and weight.ndim == 2:
            width = len(weight)
    return width


def _kernel_matrix(conv: Conv) -> torch.Tensor:
    """The kernel as M[K, C * taps], float64; of a grouped convolution it is block diagonal."""
    per_group = conv.weight.double().flatten(1).unflatten(0, (conv.groups, -1))
    return torch.block_diag(*per_group)


def _linear_layer(weight: torch.Tensor, bias: torch.Tensor) -> nn.Linear:
    """A linear layer with this weight[K, C] and bias[K]."""
    layer = nn.Linear(weight.shape[1], weight.shape[0], device="meta")
    layer.weight, layer.bias = nn.Parameter(weight), nn.Parameter(bias)
    return layer


def _after(
    layers: list[nn.Module], weight: torch.Tensor, bias: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """The weight and bias of t -> layers(weight t + bias), found by running the layers.

    An affine layer f has f(0) as its bias, and f(v) - f(0) is its matrix times v.
    """
    columns, constant = weight.double().t(), bias.double()[None]
    zero = torch.zeros_like(constant)
    for layer in layers:
        columns, constant = layer(columns) - layer(zero), layer(constant)
        zero = torch.zeros_like(constant)
    return columns.t().contiguous(), constant[0]


def _one_module(layers: list[nn.Module], width: int) -> nn.Module:
    """A module for a segment on d[N, width]: norms and other scales go into the layer before."""
    like = next(p for m in layers for p in m.parameters()) if layers else torch.empty(0)
    merged: list[nn.Module] = []
    for layer in layers:
        if not is_channelwise([layer]):
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

"""The modules of a folded network: a gate without norms, and a convolution with such a gate."""

# N batch, C channels in, K channels out, H W space (or L, or D H W, or nothing: [N, C])

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, TypeGuard

import torch
import torch.nn.functional as F
from torch import nn

from accuracy_booster.blocks.layers import Dense
from accuracy_booster.fastpath.epilogue import Epilogue
from accuracy_booster.fastpath.gated_convolution import gated_convolution
from accuracy_booster.fastpath.packed_modules import GateWeights, PackedConv2d
from accuracy_booster.ops import (
    gate_of_map,  # noqa: F401  # it defines the operator
    leaf_module,
    rescale,
    without_autocast,
)
from accuracy_booster.ops.pooled_conv import has_pooled_form, tap_sums
from accuracy_booster.surgery.hooks import is_hooked


class Scale(nn.Module):
    """d[N, C] -> weight * d + bias, with weight[C] and bias[C]."""

    def __init__(self, weight: torch.Tensor, bias: torch.Tensor):
        super().__init__()
        self.weight = nn.Parameter(weight)
        self.bias = nn.Parameter(bias)

    def forward(self, d: torch.Tensor) -> torch.Tensor:
        return torch.addcmul(self.bias, d, self.weight)


class FoldedGate(nn.Module):
    """Descriptor -> p = scale * sigmoid(stages), with a ReLU between the stages.

    Args:
        stages: affine modules, one for each run of the gate's layers that has no ReLU inside.
        scale: 1, or 2 for gates that start at the identity.
    """

    def __init__(self, stages: Iterable[nn.Module], scale: float):
        super().__init__()
        self.stages = nn.Sequential(*stages)
        self.scale = scale
        (first, *rest) = self.stages
        row = None
        if isinstance(first, Scale) and not rest:
            # a constant of a compiled network, while numbers that are made on the way are not
            row = torch.full_like(first.bias, scale).detach()
        self.register_buffer("scale_row", row, persistent=False)

    def rows(self) -> torch.Tensor | None:
        """[3, K]: weight, bias and scale, if each p depends on the mean of its channel alone."""
        if self.scale_row is None:
            return None
        first = self.stages[0]
        return torch.stack([first.weight, first.bias, self.scale_row])  # type: ignore[list-item]

    def of_map(self, h: torch.Tensor, conv: PackedConv2d) -> torch.Tensor | None:
        """h[N, C, H, W] -> p[N, K] from the means of what each tap of `conv` reads.

        Returns:
            None if the operator has no form for this gate, or if somebody wants its gradients.
        """
        stages = [_weight_and_bias(stage) for stage in self.stages]
        wanted = torch.is_grad_enabled() and any(p.requires_grad for p in self.parameters())
        if wanted or None in stages or not has_pooled_form(conv):
            return None
        weights, biases = zip(*stages, strict=True)  # type: ignore[misc]
        geometry = conv.kernel_size, conv.stride, conv.padding, conv.dilation
        op = torch.ops.accuracy_booster.gate_of_map
        return op(h, *geometry, weights, biases, float(self.scale))

    def forward(self, d: torch.Tensor) -> torch.Tensor:
        """d[N, C] (float32 also in 16-bit networks) -> p[N, K]."""
        first, *rest = self.stages
        d = first(d.to(next(self.parameters(), d).dtype))  # 16 bits too after `folded.half()`
        for stage in rest:
            d = stage(F.relu(d))
        p = torch.sigmoid(d)
        return p if self.scale == 1 else self.scale * p


def _weight_and_bias(stage: nn.Module) -> tuple[torch.Tensor, torch.Tensor] | None:
    """Of a stage that is one product for each number or one matrix; None for others."""
    if isinstance(stage, Dense) and stage.depthwise:
        weight = stage.weight[:, 0]
    elif isinstance(stage, Scale | nn.Linear) or (isinstance(stage, Dense) and stage.groups == 1):
        weight = stage.weight
    else:
        return None
    if weight.dtype != torch.float32:
        return None
    return weight, weight.new_zeros(len(weight)) if stage.bias is None else stage.bias


class GatedConv(nn.Module):
    """h[N, C, H, W] -> p * conv(h), where p[N, K] are the weights of a folded gate.

    Args:
        conv: a convolution, or a linear layer on [N, C].
        gate: what gives p.
        form: what the gate reads: "input", the means of what each tap of the kernel sees; "output",
            the mean of conv(h); or "kernel", the mean of conv(h) as the kernel of a packed
            convolution knows it before it computes the map.
        epilogue: what follows.
    """

    def __init__(self, conv: nn.Module, gate: FoldedGate, form: str, epilogue: Epilogue):
        super().__init__()
        self.conv, self.gate = conv, gate
        self.form, self.epilogue = form, epilogue

    def extra_repr(self) -> str:
        return f"form={self.form}"

    @leaf_module(may_defer=False)  # users of a torch.fx graph may read any node
    def forward(self, h: torch.Tensor, may_defer: bool = True) -> Any:
        """A tensor; with `may_defer` it may be a deferred map."""
        conv = self.conv
        if self.form != "output" and _is_packed(conv, self.gate) and conv.takes(h):
            return self._packed(conv, h, may_defer)
        z, p = gated_convolution(
            h,
            convolve=self.conv,
            weigh=self._weigh,
            describe=self._means_of_taps if self.form == "input" else None,
        )
        if may_defer:
            deferred = self.epilogue.defer(self, z, None, p, None)
            if deferred is not None:
                return deferred
        return rescale(z, p)

    def _packed(self, conv: PackedConv2d, h: torch.Tensor, may_defer: bool) -> Any:
        """The same, with the gate's weights in the convolution's own pass."""
        if self.form == "input":
            p = self.gate.of_map(h, conv)
            weights = GateWeights(scale=self._weigh(self._means_of_taps(h)) if p is None else p)
        else:
            pointwise = conv.kernel_size == (1, 1)
            means = None if pointwise else self._means_of_taps(h, taps_first=True)
            weights = GateWeights(gate=self.gate.rows(), means=means)
        if may_defer and self.epilogue.input_is_kept and self.epilogue.may_defer(self):
            return conv.deferred(h, weights, followed_by=self.epilogue.followed_by)
        return conv(h, weights)

    def _means_of_taps(self, h: torch.Tensor, *, taps_first: bool = False) -> torch.Tensor:
        """h[N, C, ...] -> [N, C * taps]: the mean of what each tap of the kernel sees.

        With `taps_first` they are in the order of packed weights, [N, taps * C].
        """
        sums, area = tap_sums(h, self.conv)  # type: ignore[arg-type]  # no linear layer
        return (sums.transpose(1, 2) if taps_first else sums).flatten(1) / area

    def _weigh(self, d: torch.Tensor) -> torch.Tensor:
        with without_autocast(d):
            return self.gate(d)


def _is_packed(conv: nn.Module, gate: FoldedGate) -> TypeGuard[PackedConv2d]:
    """Whether it is a packed convolution, and nobody reads its own output or that of the gate."""
    if not isinstance(conv, PackedConv2d):
        return False
    return torch.compiler.is_compiling() or not (is_hooked(conv) or is_hooked(gate))


class GatedConv2d(GatedConv):
    """The same on [N, C, H, W]."""

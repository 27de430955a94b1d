"""Recognise that another tool has folded a norm into the layer before it.

Tools that prepare a network for inference fold `norm(layer(x))` into the layer and delete the norm.
The gate of that norm then belongs on the layer. That a norm is gone does not show that it was
folded, so the numbers are checked: with the layer's former bias b, its bias must now be
`beta + (b - mean) * gamma / sqrt(var + eps)`. Everything here only looks.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from torch._subclasses.fake_tensor import is_fake

from accuracy_booster.ops import is_proxy
from accuracy_booster.surgery.gated import ATTRIBUTE, is_gated

LAYERS = (nn.modules.conv._ConvNd, nn.Linear)
STATISTICS = ("running_mean", "running_var", "weight", "bias")


@dataclass(eq=False)
class FoldableNorm:
    """A norm with running statistics, and the layers into which it could be folded.

    Attributes:
        norm: the norm. It is kept here after it has been deleted from the network.
        biases: {name of a layer in the module around the norm: its bias before folding}. The
            layers nearest before the norm come first.
        nearest: the layer whose output the norm takes, if the order of the modules shows it.
    """

    norm: nn.Module
    biases: dict[str, torch.Tensor | None]
    nearest: str | None


def foldable_norm(owner: nn.Module, module: nn.Module) -> FoldableNorm | None:
    """What must be remembered of a gated module; None if it is no norm that could be folded."""
    if not _has_statistics(module):
        return None
    inside = list(_steps(owner))
    place = next(i for i, (_, step) in enumerate(inside) if step is module)
    order = [*reversed(inside[:place]), *inside[place + 1 :]]
    names = [name for name, step in order if _fits(step, module)]
    near = [isinstance(step, LAYERS) for _, step in order[: min(place, 2)]]
    nearest = names[0] if near in ([True], [True, False]) and _fits(order[0][1], module) else None
    return FoldableNorm(module, {name: _bias(owner, name) for name in names}, nearest)


def layer_with_norm(owner: nn.Module, kept: FoldableNorm) -> str | None:
    """The name, in the module around it, of the layer into which a norm has been folded.

    Returns:
        The name; None if the numbers do not show that there is such a layer.

    Raises:
        RuntimeError: while a tool traces the network.
    """
    found = []
    for name, layer in _steps(owner):
        if is_gated(layer):
            continue
        # a layer that was built anew may have come from any of the former ones
        if holds_norm(layer, kept, [name] if name in kept.biases else None):
            found.append(name)
    if len(found) > 1:  # norms that have not been trained: any zero bias would fit
        found = [name for name in found if name == kept.nearest]
    return found[0] if found else None


def holds_norm(layer: nn.Module, kept: FoldableNorm, names: Iterable[str] | None = None) -> bool:
    """Whether the bias of a layer shows that a norm has been folded into it.

    Args:
        layer: any module.
        kept: the norm.
        names: the layers whose former biases come into question; by default all.
    """
    if not _fits(layer, kept.norm):
        return False
    former = [kept.biases[name] for name in (kept.biases if names is None else names)]
    return any(_is_folded(layer, bias, kept.norm) for bias in former)


def norm_in_layer(
    layer: nn.Module | None, former: torch.Tensor | None, owner: nn.Module
) -> str | None:
    """The name of a norm inside `owner` that has been folded into a layer; None if there is none.

    Args:
        layer: what stands in `owner` from now on.
        former: the bias of the layer before.
        owner: the module around it.
    """
    if not isinstance(layer, LAYERS) or getattr(layer, "bias", None) is None:
        return None
    for name, norm in owner.named_modules():
        if not _has_statistics(norm) or not _fits(layer, norm):
            continue
        try:
            if _is_folded(layer, former, norm):
                return name
        except RuntimeError:  # a tool traces: there are no numbers to look at
            return None
    return None


def _steps(owner: nn.Module) -> Iterator[tuple[str, nn.Module]]:
    """The modules inside with tensors of their own, without gates, in the order of registration."""
    for name, module in owner.named_modules():
        # by its methods: a scripted module has no such dicts
        tensors = (*module.parameters(recurse=False), *module.buffers(recurse=False))
        if tensors and name and f".{ATTRIBUTE}." not in f".{name}.":
            yield name, module


def _has_statistics(norm: nn.Module) -> bool:
    """Whether it is a norm alone, with running statistics: no activation is inside."""
    mean = norm.__dict__.get("_buffers", {}).get("running_mean")
    inside = (m for name, m in norm.named_children() if name != ATTRIBUTE)
    alone = all(isinstance(module, nn.Identity) for module in inside)
    return mean is not None and hasattr(norm, "running_var") and hasattr(norm, "eps") and alone


def _fits(layer: nn.Module, norm: Any) -> bool:
    """Whether it is a layer that has as many channels as the norm."""
    if not isinstance(layer, LAYERS):
        return False
    channels = layer.out_features if isinstance(layer, nn.Linear) else layer.out_channels
    return channels == len(norm.running_mean)


def _bias(owner: nn.Module, name: str) -> torch.Tensor | None:
    return owner.get_submodule(name)._parameters.get("bias")


def _is_folded(layer: nn.Module, former: torch.Tensor | None, norm: Any) -> bool:
    """Whether the bias of a layer is what folding a norm into it gives."""
    bias: Any = layer.bias
    if bias is None or bias is former:
        return False
    tensors = (bias, former, *(getattr(norm, name, None) for name in STATISTICS))
    hidden = any(t is not None and (is_proxy(t) or is_fake(t)) for t in tensors)
    if hidden or torch.jit.is_tracing():
        raise RuntimeError(
            "a tool folded a norm that had a gate, and another one traces the network now, before "
            "the gate could follow; call ab.repair(model) between them"
        )
    if bias.is_meta:
        return former is None  # there are no numbers to look at
    # rounded in the type of the layer, more coarsely where large terms cancel
    rounding = 8 * max(torch.finfo(bias.dtype).eps, 2**-23)
    now, before, mean, var, gamma, beta = (
        torch.zeros(1) if t is None else t.detach().to("cpu", torch.float64) for t in tensors
    )
    scale = (var + norm.eps).rsqrt() * (1 if tensors[4] is None else gamma)
    size = (before * scale).abs() + (mean * scale).abs() + beta.abs() + now.abs()
    error = (now - ((before - mean) * scale + beta)).abs()
    return bool((error <= rounding * size + 1e-12).all())

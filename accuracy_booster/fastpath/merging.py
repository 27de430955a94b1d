"""`ab.merge`: gates become constants, which are multiplied into the layers before them."""

# N batch, C channels

from __future__ import annotations

import copy
import warnings
from collections.abc import Iterable, Mapping
from typing import Any, TypeVar

import torch
from torch import nn

from accuracy_booster.blocks import Recalibrate
from accuracy_booster.errors import unknown
from accuracy_booster.fastpath import scalable_layers
from accuracy_booster.fastpath.fusing import unfuse
from accuracy_booster.fastpath.gate_constants import (
    Constants,
    checked_constants,
    has_means,
    read_constants,
    site_names,
)
from accuracy_booster.fastpath.report import report_of
from accuracy_booster.surgery.attaching import detach
from accuracy_booster.surgery.gated import ATTRIBUTE
from accuracy_booster.surgery.listing import attached
from accuracy_booster.surgery.refusing import refuse_wrapped
from accuracy_booster.surgery.repairing import repair
from accuracy_booster.surgery.state import update_state

Network = TypeVar("Network", bound=nn.Module)
MOST_NAMED = 4  # sites that a message names for each reason


def merge(model: Network, gates: Constants, *, at: Iterable[str] | None = None) -> Network:
    """A new network in which gates are constants, multiplied into the layers before them.

    A gate whose weights hardly depend on the image is as good as one factor per channel, and a
    layer with weights per channel takes that factor in. With all gates merged the result is the
    base network: the same classes, the same names and shapes in the state dict, and nothing of this
    package. It can be trained. The model itself does not change.

    Norms, convolutions and linear layers take constants, those of timm and torchvision too. A gate
    stays where the module has no such weights (an attention module, a container), where the weights
    are shared or parametrised, and where the gate has a weight per position or two gates in turn.

    Args:
        model: a boosted network, fused or not.
        gates: {site: the constants [C]}, or an object whose method `means()` gives them, such as
            what `ab.gates` returns.
        at: the sites to merge; every one must be possible. By default those in `gates`: the ones
            that cannot be merged keep their gate, and a warning names them. The result of
            `ab.gates` should hold every gate of its network; the warning names those that it lacks
            too. Gates that a mapping lacks stay without a warning.

    Raises:
        ValueError: for an unknown site, constants that are not finite or of another number than the
            channels, a site in `at` that cannot be merged, a network without gates, or one that is
            folded or wrapped.
    """
    new, _, kept = merge_gates(model, gates, at)
    warn_of_kept(kept, stacklevel=3)
    return new


def merge_gates(
    model: Network, gates: Constants, at: Iterable[str] | None = None
) -> tuple[Network, dict[str, torch.Tensor], dict[str, str]]:
    """The new network, {merged site: its constants}, and {site that keeps its gate: why}.

    Arguments and errors are those of `merge`.
    """
    refuse_wrapped(model)
    if not attached(model):
        raise ValueError(f"{type(model).__name__} has no gates to merge; boost it first")
    constants, known = read_constants(gates)
    new = unfused_copy(model)
    there, modules = attached(new), dict(new.named_modules())
    holders = scalable_layers.holders(new)
    chosen = known if at is None else site_names([at] if isinstance(at, str) else at)
    for names, where in ((known, "`gates`"), (chosen, "at=")):
        for name in names:
            if name not in there and not _is_own_block(modules, name):
                raise unknown("site", name, there, f"it is in {where}")
    lacking = "`gates` has no constants for it"
    complete = at is None and has_means(gates)
    kept = {name: lacking for name in there if name not in known} if complete else {}
    merged: dict[str, torch.Tensor] = {}
    for name in chosen:
        gate = there.get(name)
        reason = "the gate is a module of the network's own" if gate is None else no_factor(gate)
        if reason is None and name not in constants:
            reason = lacking
        if reason is None:
            assert gate is not None
            p = merged[name] = checked_constants(name, constants[name], gate.channels)
            last = _is_channels_last(gate) if gate.spatial_dims else None
            negative = bool((p < 0).any())
            reason = scalable_layers.why_not(modules[name], holders, last=last, negative=negative)
        if reason is not None:
            merged.pop(name, None)
            kept[name] = reason
    if kept and at is not None:
        raise ValueError(
            f"cannot merge {sites_by_reason(kept)}; leave them out of at=, and they keep gates"
        )
    detach(new, merged)
    for name, p in merged.items():
        scalable_layers.scale(modules[name], p)
    if not attached(new):
        update_state(new, base_fingerprints=None)
    return new, merged, kept


def warn_of_kept(kept: Mapping[str, str], *, stacklevel: int) -> None:
    """Warn of the sites that keep their gates, if there are any."""
    if kept:
        warnings.warn(f"gates that are not merged: {sites_by_reason(kept)}", stacklevel=stacklevel)


def with_constant_gates(model: Network, constants: Mapping[str, torch.Tensor]) -> Network:
    """A copy in which the gates at these sites multiply by constants[C]; nothing is merged."""
    new = unfused_copy(model)
    for name, gate in attached(new).items():
        if name in constants:
            gate.register_forward_hook(_Constant(constants[name]))
    return new


class _Constant:
    """A hook that puts x * p in place of a gate's output."""

    def __init__(self, p: torch.Tensor):
        self.p = p

    def __call__(self, gate: nn.Module, inputs: Any, output: torch.Tensor) -> torch.Tensor:
        assert isinstance(gate, Recalibrate)
        x, p = inputs[0], self.p.to(output)
        return x * (p if _is_channels_last(gate) else p.view(-1, *[1] * (x.ndim - 2)))


def unfused_copy(model: Network) -> Network:
    """A copy that is not fused, with each gate on its module."""
    new = copy.deepcopy(model)
    if report_of(new) is not None:
        unfuse(new)
    return repair(new)


def no_factor(gate: Recalibrate) -> str | None:
    """Why a gate is not one factor per channel, in a few words; None if it is."""
    if not gate.enabled:
        return "the gate is disabled; merge outside of ab.disabled"
    if len(gate.recipe.gates) > 1:
        return f"it has {len(gate.recipe.gates)} gates in turn"
    *_, (_, kind, _) = gate.recipe.gates[0].flow()
    return None if kind == "vector" else "its gate has a weight for each position"


def sites_by_reason(kept: Mapping[str, str]) -> str:
    """The sites that keep their gates, grouped by the reason, in one line."""
    sites: dict[str, list[str]] = {}
    for name, reason in kept.items():
        sites.setdefault(reason, []).append(name)
    parts = []
    for reason, names in sites.items():
        few = ", ".join(map(repr, names[:MOST_NAMED]))
        more = f" and {len(names) - MOST_NAMED} more" if len(names) > MOST_NAMED else ""
        parts.append(f"{few}{more} ({reason})")
    return ", ".join(parts)


def _is_own_block(modules: Mapping[str, nn.Module], name: str) -> bool:
    """Whether the network's author put a block there; `ab.gates` reports such blocks too."""
    here = (modules.get(n) for n in (name, f"{name}.{ATTRIBUTE}"))
    return any(isinstance(module, Recalibrate) for module in here)


def _is_channels_last(gate: Recalibrate) -> bool:
    return gate.layout == "NHWC"

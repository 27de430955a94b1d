"""Gates as constants: mean weights multiplied into the layers that the gates scale."""

# N batch, C channels

from __future__ import annotations

import copy
import warnings
from collections.abc import Iterable, Mapping
from typing import Any, Protocol, TypeVar

import torch
from torch import nn

from accuracy_booster.blocks import Recalibrate
from accuracy_booster.errors import shown, unknown
from accuracy_booster.fastpath import scalable_layers as layers
from accuracy_booster.fastpath.fusing import unfuse
from accuracy_booster.surgery.attaching import attached, detach
from accuracy_booster.surgery.gated import ATTRIBUTE
from accuracy_booster.surgery.refusing import refuse_wrapped
from accuracy_booster.surgery.repairing import repair
from accuracy_booster.surgery.state import state_of, update_state

Network = TypeVar("Network", bound=nn.Module)
FEW = 4  # sites that a message names for each reason


class HasMeans(Protocol):
    """Such as `inspection.gate_statistics.Gates`."""

    def means(self) -> Mapping[str, torch.Tensor]: ...


Constants = Mapping[str, torch.Tensor] | HasMeans


def merge(model: Network, gates: Constants, *, at: Iterable[str] | None = None) -> Network:
    """A new network in which gates are constants, multiplied into the layers that they scaled.

    A gate whose weights hardly depend on the image is the same as a factor per channel, and a layer
    with a weight per channel takes that up. With all gates merged the result is the plain network:
    the same classes, the same names and shapes in the state dict, nothing of this package. It can
    be trained. The model itself does not change.

    Norms, convolutions and linear layers take constants, those of timm and torchvision too. A gate
    stays where the module has no such weight (an attention module, a container), where its weight
    is shared or parametrised, and where the gate has a weight per position or two gates in turn.

    Args:
        model: a boosted network, fused or not.
        gates: {site: the constants [C]}, or what has a method `means()` that gives them, such as
            what `ab.gates` returns.
        at: the sites to merge. By default those in `gates`; of these the ones that cannot be merged
            keep their gate, and a warning names them. So do gates that are not in what `ab.gates`
            found, which is then of another network; of a mapping they are left alone silently.

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
    """The new network, {merged site: its constants}, and {site that keeps its gate: why}."""
    refuse_wrapped(model)
    if not attached(model):
        raise ValueError(f"{type(model).__name__} has no gates to merge; boost it first")
    constants, seen = _read(gates)
    new = plain_copy(model)
    there, modules, held = attached(new), dict(new.named_modules()), layers.holders(new)
    chosen = seen if at is None else _sites([at] if isinstance(at, str) else at)
    for names, where in ((seen, "`gates`"), (chosen, "at=")):
        for name in names:
            if name not in there and not _is_own(modules, name):
                raise unknown("site", name, there, f"it is in {where}")
    lacking = "`gates` has no constants for it"
    whole = at is None and callable(getattr(gates, "means", None))
    # what `ab.gates` found holds every gate of its network: one that it lacks tells another network
    kept = {name: lacking for name in there if name not in seen} if whole else {}
    merged: dict[str, torch.Tensor] = {}
    for name in chosen:
        gate = there.get(name)
        reason = "the gate is a module of the network's own" if gate is None else no_factor(gate)
        if reason is None and name not in constants:
            reason = lacking
        if reason is None:
            assert gate is not None
            p = merged[name] = _checked(name, constants[name], gate.channels)
            last = _is_last(gate) if gate.spatial_dims else None
            reason = layers.why_not(modules[name], held, last=last, negative=bool((p < 0).any()))
        if reason is not None:
            merged.pop(name, None)
            kept[name] = reason
    if kept and at is not None:
        raise ValueError(f"cannot merge {told(kept)}; leave them out of at=, and they keep gates")
    detach(new, merged)
    for name, p in merged.items():
        layers.scale(modules[name], p)
    if not attached(new):
        update_state(new, base_fingerprints=None)
    return new, merged, kept


def warn_of_kept(kept: Mapping[str, str], *, stacklevel: int) -> None:
    if kept:
        warnings.warn(f"gates that are not merged: {told(kept)}", stacklevel=stacklevel)


def frozen(model: Network, constants: Mapping[str, torch.Tensor]) -> Network:
    """A copy in which the gates at these sites multiply by constants[C] and nothing is merged."""
    new = plain_copy(model)
    for name, gate in attached(new).items():
        if name in constants:
            gate.register_forward_hook(_Constant(constants[name]))
    return new


class _Constant:
    """A hook that puts x * p in place of a gate's output."""

    def __init__(self, p: torch.Tensor):
        self.p = p

    def __call__(self, gate: nn.Module, inputs: Any, output: torch.Tensor) -> torch.Tensor:
        x, p = inputs[0], self.p.to(output)
        return x * (p if _is_last(gate) else p.view(-1, *[1] * (x.ndim - 2)))  # type: ignore[arg-type]


def plain_copy(model: Network) -> Network:
    """A copy that is not fused, with its gates in their places."""
    new = copy.deepcopy(model)
    if state_of(new).fast_path is not None:
        unfuse(new)
    return repair(new)


def _read(gates: Any) -> tuple[Mapping[str, Any], list[str]]:
    """{site: its constants}, and the sites of all gates that `gates` tells of."""
    means = gates.means() if callable(getattr(gates, "means", None)) else gates
    if not isinstance(means, Mapping):
        raise ValueError(
            f"gates={shown(gates)} must be a mapping of sites to constants [C], or have a method "
            "means() that gives one"
        )
    return means, _sites([*means, *(gates if isinstance(gates, Mapping) else ())])


def _sites(names: Iterable[Any]) -> list[str]:
    """Each site once; a second gate at the same place has "#2" after it."""
    return list(dict.fromkeys(str(name).partition("#")[0] for name in names))


def _checked(name: str, given: Any, channels: int) -> torch.Tensor:
    """Constants as float64 [C] on their device.

    Raises:
        ValueError: if they are none.
    """
    try:
        p = torch.as_tensor(given).detach().to(torch.float64)
    except (TypeError, ValueError, RuntimeError) as e:
        raise ValueError(f"the constants of {name!r} are no tensor: {shown(given)}") from e
    if p.shape != (channels,):
        raise ValueError(
            f"the constants of {name!r} have shape {list(p.shape)}, and its gate has {channels} "
            "channels; give one for each"
        )
    if wrong := (~p.isfinite()).nonzero().flatten().tolist():
        raise ValueError(
            f"the constants of {name!r} are not finite, such as {float(p[wrong[0]])} of channel "
            f"{wrong[0]}"
        )
    return p


def no_factor(gate: Recalibrate) -> str | None:
    """Why a gate is not one factor per channel, in a few words; None if it is."""
    if not gate.enabled:
        return "the gate is disabled; merge outside of ab.disabled"
    if len(gate.recipe.gates) > 1:
        return f"it has {len(gate.recipe.gates)} gates in turn"
    *_, (_, kind, _) = gate.recipe.gates[0].flow()
    return None if kind == "vector" else "its gate has a weight for each position"


def _is_own(modules: Mapping[str, nn.Module], name: str) -> bool:
    """Whether a block stands there that `ab.boost` did not attach (`ab.gates` tells of it too)."""
    here = (modules.get(n) for n in (name, f"{name}.{ATTRIBUTE}"))
    return any(isinstance(module, Recalibrate) for module in here)


def _is_last(gate: Recalibrate) -> bool:
    return gate.layout == "NHWC"


def told(kept: Mapping[str, str]) -> str:
    """The sites, by why they keep their gates."""
    sites: dict[str, list[str]] = {}
    for name, reason in kept.items():
        sites.setdefault(reason, []).append(name)
    parts = []
    for reason, names in sites.items():
        few = ", ".join(map(repr, names[:FEW]))
        more = f" and {len(names) - FEW} more" if len(names) > FEW else ""
        parts.append(f"{few}{more} ({reason})")
    return ", ".join(parts)

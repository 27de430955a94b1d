"""Which gates a container takes with it when another module takes its place.

timm's `fuse` puts one convolution in the place of a convolution and its norm; `model.layer4 =
nn.Identity()` takes a whole stage away. Everything here only looks.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

from torch import nn

from accuracy_booster.blocks import Recalibrate
from accuracy_booster.surgery.folded_norms import LAYERS, holds_norm
from accuracy_booster.surgery.gate_holders import NORMS
from accuracy_booster.surgery.gated import applied_gate, ungated_class
from accuracy_booster.surgery.kept_gates import KeptGate, kept_gates


@dataclass
class Replacement:
    """What becomes of the gates inside a container that is replaced.

    Attributes:
        gate: the gate that the new module gets.
        lost: the names, in the container, of the modules whose gates go away with it.
        told: what owners remember of these gates.
        differs: whether the gate was on a norm at the end, and the new layer is not that norm and
            its layer in one: other branches may be in it.
    """

    gate: Recalibrate | None = None
    lost: list[str] = field(default_factory=list)
    told: list[KeptGate] = field(default_factory=list)
    differs: bool = False


def gates_inside(module: nn.Module) -> dict[str, Recalibrate]:
    """{name of a gated module inside: its gate}, with those that wait for `repair`."""
    gates: dict[str, Recalibrate] = {}
    for name, inner in module.named_modules():
        if (gate := applied_gate(inner)) is not None:
            gates[name] = gate
    applied = {id(gate) for gate in gates.values()}
    for name, inner in module.named_modules():
        for kept in kept_gates(inner):
            if id(kept.gate) not in applied:
                gates.setdefault(f"{name}.{kept.path}".lstrip("."), kept.gate)
    return gates


def replacement(
    old: nn.Module, new: nn.Module | None, others: Iterable[nn.Module] = ()
) -> Replacement:
    """What becomes of the gates inside `old` when `new` takes its place.

    Args:
        old, new: a container, and what stands in its place from now on.
        others: modules that stay, and may hold what was in `old`.
    """
    gates = gates_inside(old)
    if not gates:
        return Replacement()
    ids = {id(gate) for gate in gates.values()}
    if new is not None:
        gates_of_new = {id(gate) for gate in gates_inside(new).values()}
        if gates_of_new and not gates_of_new & ids:  # a copy, or a network with gates of its own
            return Replacement()
        others = (new, *others)
    stay = {id(gate) for other in others for gate in gates_inside(other).values()}
    lost = {name: gate for name, gate in gates.items() if id(gate) not in stay}
    gate, differs = (None, False) if new is None or stay & ids else _gate_for(old, new)
    names = [name for name, other in lost.items() if other is not gate]
    told = [
        k for m in old.modules() for k in kept_gates(m) if any(k.gate is lost[n] for n in names)
    ]
    return Replacement(gate, names, told, differs)


def _gate_for(old: nn.Module, new: nn.Module) -> tuple[Recalibrate | None, bool]:
    """The gate that goes from a container to the layer or norm in its place, if one does; and
    whether the layer differs from what was before the gate.

    It is the gate of the norm that was folded into the layer; or the gate at the very end of the
    container.
    """
    if not isinstance(new, (*LAYERS, *NORMS)):
        return None, False
    last = _gate_at_end(old)
    kept = [k for module in old.modules() for k in kept_gates(module)]
    folded = [k.gate for k in kept if k.norm is not None and holds_norm(new, k.norm)]
    if len(folded) == 1:
        return folded[0], False
    if last is None or _channels(new) != last.channels:
        return None, False
    norms = [k.gate for k in kept if k.norm is not None and k.norm.biases]
    on_norm = isinstance(new, LAYERS) and any(gate is last for gate in norms)
    return last, on_norm and all(gate is not last for gate in folded)


def _gate_at_end(module: nn.Module) -> Recalibrate | None:
    """The gate that acts at the very end of a `Sequential`, if there is one."""
    while (gate := applied_gate(module)) is None:
        steps = [m for m in module.children() if not isinstance(m, nn.Identity)]
        runs_them = ungated_class(module).forward is nn.Sequential.forward
        if not steps or not runs_them:
            return None
        module = steps[-1]
    return gate


def _channels(module: nn.Module) -> int | None:
    names = ("out_channels", "out_features", "num_features", "num_channels")
    return next((getattr(module, name) for name in names if hasattr(module, name)), None)

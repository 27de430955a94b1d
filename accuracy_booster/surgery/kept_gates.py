"""What the module around a gated one, its *owner*, remembers of the gate.

Everything here only looks.
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import nn

from accuracy_booster.blocks import Recalibrate
from accuracy_booster.surgery.folded_norms import FoldableNorm, layer_with_norm
from accuracy_booster.surgery.gated import applied_gate

# In the `__dict__` of an owner: its list of `KeptGate`. It is no part of `BoostState`: that lies on
# the network, and any module of a network may be an owner.
KEPT = "_kept_gates"
OWNERS = "_gate_owners"  # in the `__dict__` of a boosted network: its list of `Owner`


@dataclass(eq=False)
class KeptGate:
    """What an owner remembers of one gate.

    Attributes:
        path: the name of the gated module inside the owner.
        gate: the gate.
        current_path: its name after a tool moved it (wrapped it, say).
        siblings: the modules beside the gated one when the gate was attached. If one of them stands
            in the gated module's place it was moved there; any other module was built to replace
            the gated one.
        norm: the gated module if it is a norm that other tools fold. None in files of old versions.
        told: whether a warning has said that the gate went away with its owner.
    """

    path: str
    gate: Recalibrate
    current_path: str
    siblings: list[nn.Module]
    norm: FoldableNorm | None = None
    told: bool = False


@dataclass(eq=False)
class Owner:
    """What a boosted network remembers of an owner inside it: the names that lead to it."""

    names: tuple[str, ...]
    module: nn.Module


def kept_gates(module: nn.Module) -> list[KeptGate]:
    """The gates that a module remembers as their owner."""
    return module.__dict__.get(KEPT, [])


def has_kept_gates(model: nn.Module) -> bool:
    """Whether any module of a network remembers gates, also of modules that were removed since."""
    return any(map(kept_gates, model.modules()))


def find(owner: nn.Module, path: str) -> nn.Module | None:
    """The module at `path` inside another; None if there is none."""
    module: nn.Module | None = owner
    for name in path.split("."):
        module = None if module is None else module._modules.get(name)
    return module


def siblings_of(owner: nn.Module, path: str) -> list[nn.Module]:
    """The modules beside the one at `path`."""
    parent_path, _, name = path.rpartition(".")
    parent = owner.get_submodule(parent_path)
    return [m for n, m in parent._modules.items() if m is not None and n != name]


def missing_gates(owner: nn.Module) -> list[tuple[KeptGate, str | None]]:
    """The gates of an owner that no module applies, each with the name of where it belongs.

    The name is None where the module of the gate was removed. A norm that was folded and is still
    there, but no longer runs, counts as removed. Nothing changes.
    """
    if not kept_gates(owner):
        return []
    applied = {id(applied_gate(module)) for module in owner.modules()}
    missing: list[tuple[KeptGate, str | None]] = []
    for kept in kept_gates(owner):
        module = find(owner, kept.path)
        if is_bypassed(owner, kept) and kept.norm is not None:
            layer = layer_with_norm(owner, kept.norm)
            missing += [(kept, layer)] if layer is not None else []
            continue
        if id(kept.gate) in applied or (module is not None and applied_gate(module) is not None):
            continue
        if module is not None and all(module is not sibling for sibling in kept.siblings):
            missing.append((kept, kept.path))
        else:
            layer = None if kept.norm is None else layer_with_norm(owner, kept.norm)
            missing.append((kept, layer))
    return missing


def is_bypassed(owner: nn.Module, kept: KeptGate) -> bool:
    """Whether a tool may have folded a norm that is still there: it set a forward on the owner, and
    the layer before the norm has another bias.
    """
    norm = kept.norm
    if norm is None or norm.nearest is None or "forward" not in owner.__dict__:
        return False
    layer, module = find(owner, norm.nearest), find(owner, kept.path)
    if module is not norm.norm or layer is None or applied_gate(module) is not kept.gate:
        return False
    return layer._parameters.get("bias") is not norm.biases[norm.nearest]

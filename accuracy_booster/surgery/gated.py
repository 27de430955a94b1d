"""Which gate a module applies to its output. Everything here only looks; `gating` adds and removes.

The gate is usually the module's child `recalibrate`. A container such as `nn.Sequential` may run
its children itself, so its gate is kept inside one of its layers, which runs no children.
"""

from __future__ import annotations

from typing import Any

from torch import nn

from accuracy_booster.blocks import Recalibrate

ATTRIBUTE = "recalibrate"  # the name of a gate in the module that holds it
PATH = "_gate_path"  # on a gated module: the names that lead from it to its gate


def is_of_gate(key: str) -> bool:
    """Whether the key of a state dict, or the name of a parameter, belongs to a gate."""
    return f".{ATTRIBUTE}." in f".{key}"


def is_gated(module: nn.Module) -> bool:
    """Whether the class of a module applies a gate and the module has one."""
    return getattr(type(module), "_applies_gate", False) and bool(getattr(module, PATH, ()))


def applied_gate(module: nn.Module) -> Recalibrate | None:
    """The gate that a module applies to its output; None if it has none, or lost it."""
    if not is_gated(module):
        return None
    gate: Any = module
    for name in getattr(module, PATH):
        gate = getattr(gate, name, None)
    return gate


def gate_of(module: nn.Module) -> Recalibrate | None:
    """The gate that a module applies to its output, or None if it is not gated.

    Raises:
        RuntimeError: if the gate was removed from the gated module by something else than `detach`.
    """
    gate = applied_gate(module)
    if gate is None and is_gated(module):
        raise RuntimeError(
            f"the gate of this {type(module).__name__} was at {'.'.join(getattr(module, PATH))!r} "
            "in it and is gone; boost the network after such changes, not before"
        )
    return gate


def ungated_class(module: nn.Module) -> type[nn.Module]:
    """The class of a module without its gate."""
    return getattr(type(module), "_ungated_class", type(module))

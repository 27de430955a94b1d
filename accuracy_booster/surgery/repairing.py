"""Put gates back on modules that other tools have rebuilt.

A tool may put a plain module in the place of a gated one: `convert_sync_batchnorm` and timm's
`freeze` do. Where it registers the new module, torch calls a hook and `gating` hands the gate on.
A tool that writes into `_modules` passes that hook by. So the module around the gated one, its
*owner*, remembers its gates too, and puts them back before its next pass or when `repair` is
called.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, TypeVar

import torch
from torch import nn

from accuracy_booster.blocks import Recalibrate
from accuracy_booster.surgery.gated import applied_gate
from accuracy_booster.surgery.gating import add_gate

# In the `__dict__` of an owner: its list of `KeptGate`. It is no part of `BoostState`: that lies on
# the network, and any module of a network may be an owner.
KEPT = "_kept_gates"
Model = TypeVar("Model", bound=nn.Module)


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
    """

    path: str
    gate: Recalibrate
    current_path: str
    siblings: list[nn.Module]


def kept_gates(module: nn.Module) -> list[KeptGate]:
    """The gates that a module remembers as their owner."""
    return module.__dict__.get(KEPT, [])


def has_kept_gates(model: nn.Module) -> bool:
    """Whether any module of a network remembers gates, also of modules that were removed since."""
    return any(map(kept_gates, model.modules()))


def keep_gate(modules: dict[str, nn.Module], name: str, gate: Recalibrate) -> None:
    """Have the owner of the gated module `name` remember its gate.

    Args:
        modules: all modules of the network, by name.
        name: not "", since the network itself has no owner.
    """
    owner = modules[owner_name := _owner(modules, name)]
    parent = modules[name.rpartition(".")[0]]
    siblings = [m for m in parent._modules.values() if m is not None and m is not modules[name]]
    path = name.removeprefix(f"{owner_name}.")
    owner.__dict__.setdefault(KEPT, []).append(KeptGate(path, gate, path, siblings))
    if before_pass not in owner._forward_pre_hooks.values():
        owner.register_forward_pre_hook(before_pass)


def forget_gates(module: nn.Module, gates: set[int] | None = None) -> None:
    """Have a module forget the gates with these ids that it remembers as their owner, or all."""
    if KEPT not in module.__dict__:
        return
    left = [] if gates is None else [k for k in kept_gates(module) if id(k.gate) not in gates]
    module.__dict__[KEPT] = left
    if not left:
        del module.__dict__[KEPT]
        for key, hook in list(module._forward_pre_hooks.items()):
            if hook is before_pass:
                del module._forward_pre_hooks[key]


def forget_gates_under(module: nn.Module, path: str) -> None:
    """Have a module forget the gates of the modules at and below `path`, a name inside it."""
    under = {id(k.gate) for k in kept_gates(module) if f"{k.path}.".startswith(f"{path}.")}
    if under:
        forget_gates(module, under)


def _owner(modules: dict[str, nn.Module], name: str) -> str:
    """The nearest module around `name` that runs itself (a ModuleList does not)."""
    while name:
        name = name.rpartition(".")[0]
        if not isinstance(modules[name], (nn.ModuleList, nn.ModuleDict)):
            return name
    return name


def before_pass(owner: nn.Module, args: tuple[Any, ...]) -> None:
    """The forward pre-hook of an owner: put back gates that a tool has dropped, with a warning.

    Raises:
        RuntimeError: while `torch.compile` or `torch.export` traces the pass, which must not record
            the repair.
    """
    for kept in getattr(owner, KEPT):
        module = _find(owner, kept.current_path)
        if module is None or applied_gate(module) is not kept.gate:
            if torch.compiler.is_dynamo_compiling():
                raise RuntimeError(
                    f"a tool has rebuilt {kept.path!r}, and its gate is not on it; run the network "
                    "once before compiling it whole"
                )
            dropped = torch.compiler.disable(_repair_owner)(owner)
            if dropped:
                warnings.warn(
                    f"a tool rebuilt {dropped[0]!r} in {type(owner).__name__} and dropped its "
                    "gate, which is back now; an optimizer or a state dict that was made in "
                    "between lacks it: call ab.repair(model) right after that tool",
                    stacklevel=2,
                )
            return


def _find(owner: nn.Module, path: str) -> nn.Module | None:
    module: nn.Module | None = owner
    for name in path.split("."):
        module = None if module is None else module._modules.get(name)
    return module


def repair(model: Model) -> Model:
    """Put gates back on modules that other tools have rebuilt since boosting, in place.

    The next pass does so too, but until then `model.parameters()` and `model.state_dict()` lack the
    gates that a tool dropped. Call it after tools that rebuild norms, before making an optimizer.

    Returns:
        The model.

    Raises:
        RuntimeError: if the module of a gate was removed.
    """
    for module in list(model.modules()):
        if KEPT in module.__dict__:
            _repair_owner(module)
    return model


def _repair_owner(owner: nn.Module) -> list[str]:
    """Put the gates of an owner back; returns the paths of those that had been dropped."""
    dropped = []
    held = {id(module) for module in owner.modules()}
    applied = {id(applied_gate(m)): name for name, m in owner.named_modules() if name}
    for kept in kept_gates(owner):
        module = _find(owner, kept.path)
        if id(kept.gate) in applied:  # the module may have been moved
            kept.current_path = applied[id(kept.gate)]
            continue
        if module is not None and (gate := applied_gate(module)) is not None:
            kept.gate = gate  # a tool put a copy of the module there, with a copy of the gate
            kept.current_path = kept.path
            continue
        if module is None or any(module is sibling for sibling in kept.siblings):
            raise RuntimeError(
                f"the gate at {kept.path!r} in {type(owner).__name__} has lost its module, which "
                "was removed after boosting. Take the gates off (ab.unboost), change the network "
                "and boost it again; or fold it with ab.fold(model), which keeps the gates, in "
                "place of another tool's fusing; or give that tool ab.materialize(model)"
            )
        if id(kept.gate) not in held:
            dropped.append(kept.path)
            like = next((t for t in tensors_in(module) if t.is_floating_point()), None)
            if like is not None:
                kept.gate.to(device=like.device, dtype=like.dtype)
            kept.gate.train(module.training and owner.training)
        add_gate(module, kept.gate)
        kept.current_path = kept.path
    return dropped


def tensors_in(module: nn.Module) -> Iterator[torch.Tensor]:
    """The parameters of a module, then its buffers."""
    yield from module.parameters()
    yield from module.buffers()

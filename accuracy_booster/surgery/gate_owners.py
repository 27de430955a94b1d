"""The module around a gated one, its *owner*, remembers the gate and puts it back.

A tool may put a plain module in the place of a gated one: `convert_sync_batchnorm` and timm's
`freeze` do. Where it registers the new module, torch calls a hook and `gating` hands the gate on.
A tool that writes into `_modules` passes that hook by. So the owner remembers its gates too, and
puts them back before its next pass. Where a tool folds a gated norm into the layer before it and
deletes it, the gate goes to that layer.
"""

from __future__ import annotations

import warnings
from dataclasses import replace
from typing import Any

import torch
from torch import nn

from accuracy_booster.blocks import Recalibrate
from accuracy_booster.surgery.folded_norms import foldable_norm
from accuracy_booster.surgery.gated import applied_gate
from accuracy_booster.surgery.gating import add_gate, fit_gate, remove_gate
from accuracy_booster.surgery.kept_gates import (
    KEPT,
    KeptGate,
    find,
    is_bypassed,
    kept_gates,
    missing_gates,
    siblings_of,
)


def keep_gate(modules: dict[str, nn.Module], name: str, gate: Recalibrate) -> None:
    """Have the owner of the gated module `name` remember its gate.

    Args:
        modules: all modules of the network, by name.
        name: not "", since the network itself has no owner.
    """
    owner = modules[owner_name := _owner(modules, name)]
    path = name.removeprefix(f"{owner_name}.")
    norm = foldable_norm(owner, modules[name])
    kept = KeptGate(path, gate, path, siblings_of(owner, path), norm)
    owner.__dict__.setdefault(KEPT, []).append(kept)
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
    for kept in getattr(owner, KEPT, ()):
        module = find(owner, kept.current_path)
        gone = module is None or applied_gate(module) is not kept.gate
        if gone or is_bypassed(owner, kept):
            if torch.compiler.is_dynamo_compiling():
                raise RuntimeError(
                    f"a tool has rebuilt {kept.path!r}, and its gate is not on it; call "
                    "ab.repair(model) before compiling it"
                )
            dropped = torch.compiler.disable(repair_owner)(owner)
            if dropped:
                warnings.warn(
                    f"a tool rebuilt {dropped[0]!r} in {type(owner).__name__} and dropped its "
                    "gate, which is back now; an optimizer or a state dict that was made in "
                    "between lacks it: call ab.repair(model) right after that tool",
                    stacklevel=2,
                )
            return


def repair_owner(owner: nn.Module) -> list[str]:
    """Put the gates of an owner back; returns the paths of those that a tool had dropped.

    A gate that goes to the layer into which its norm was folded has not been dropped.
    """
    dropped = []
    # replicas of `nn.DataParallel` share what the owner remembers, and have gates of their own
    owner.__dict__[KEPT] = [replace(kept) for kept in kept_gates(owner)]
    held = {id(module) for module in owner.modules()}
    missing = missing_gates(owner)
    if missing and torch.jit.is_tracing():
        raise RuntimeError(
            f"a tool has rebuilt {missing[0][0].path!r} in {type(owner).__name__}, and its gate is "
            "not on it; call ab.repair(model) before tracing it"
        )
    for kept, path in missing:
        if path is None:
            raise lost_gate(owner, kept)
        module = owner.get_submodule(path)
        if id(kept.gate) not in held:
            if path == kept.path:
                dropped.append(path)
            fit_gate(kept.gate, module)
            # a layer that was built anew may be in training mode within a network that is not
            kept.gate.train(owner.training and (module.training or path != kept.path))
        former = find(owner, kept.path)
        if former is not None and former is not module and applied_gate(former) is kept.gate:
            remove_gate(former)
        add_gate(module, kept.gate)
        if path != kept.path:
            kept.path, kept.siblings, kept.norm = path, siblings_of(owner, path), None
        kept.current_path = path
    done = {id(kept) for kept, _ in missing}
    applied = {id(applied_gate(m)): name for name, m in owner.named_modules() if name}
    for kept in kept_gates(owner):
        if id(kept.gate) in applied:  # the module may have been moved
            kept.current_path = applied[id(kept.gate)]
        elif id(kept) not in done and (copied := find(owner, kept.path)) is not None:
            # a tool put a copy of the module there, with a copy of the gate
            kept.gate = applied_gate(copied) or kept.gate
            kept.current_path = kept.path
    return dropped


def lost_gate(owner: nn.Module, kept: KeptGate) -> RuntimeError:
    """The error that a gate has lost its module."""
    return RuntimeError(
        f"the gate at {kept.path!r} in {type(owner).__name__} has lost its module, which was "
        "removed after boosting, and no layer shows that the module was folded into it. Take the "
        "gates off (ab.unboost), change the network and boost it again; or fold it with "
        "ab.fold(model), which keeps the gates, in place of another tool's fusing; or give that "
        "tool ab.materialize(model)"
    )

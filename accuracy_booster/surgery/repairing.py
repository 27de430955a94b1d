"""Put gates back on modules that other tools have rebuilt.

A tool may put a plain module in the place of a gated one: `convert_sync_batchnorm` and timm's
`freeze` do. Where it registers the new module, torch calls a hook and `gating` hands the gate on.
A tool that writes into `_modules` passes that hook by. So the module around the gated one, its
*owner*, remembers its gates too, and puts them back before its next pass or when `repair` is
called. Where a tool folds a gated norm into the layer before it and deletes it, the gate goes to
that layer.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, TypeVar

import torch
from torch import nn

from accuracy_booster.blocks import Recalibrate
from accuracy_booster.surgery.folded_norms import FoldableNorm, foldable_norm, layer_with_norm
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
        norm: the gated module if it is a norm that other tools fold. None in files of old versions.
    """

    path: str
    gate: Recalibrate
    current_path: str
    siblings: list[nn.Module]
    norm: FoldableNorm | None = None


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
    path = name.removeprefix(f"{owner_name}.")
    norm = foldable_norm(owner, modules[name])
    kept = KeptGate(path, gate, path, _siblings(owner, path), norm)
    owner.__dict__.setdefault(KEPT, []).append(kept)
    if before_pass not in owner._forward_pre_hooks.values():
        owner.register_forward_pre_hook(before_pass)


def _siblings(owner: nn.Module, path: str) -> list[nn.Module]:
    """The modules beside the one at `path`."""
    parent_path, _, name = path.rpartition(".")
    parent = owner.get_submodule(parent_path)
    return [m for n, m in parent._modules.items() if m is not None and n != name]


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
                    f"a tool has rebuilt {kept.path!r}, and its gate is not on it; call "
                    "ab.repair(model) before compiling it"
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


def missing_gates(owner: nn.Module) -> list[tuple[KeptGate, str | None]]:
    """The gates of an owner that no module applies, each with the name of where it belongs.

    The name is None where the module of the gate was removed. Nothing changes.
    """
    applied = {id(applied_gate(module)) for module in owner.modules()}
    missing: list[tuple[KeptGate, str | None]] = []
    for kept in kept_gates(owner):
        module = _find(owner, kept.path)
        if id(kept.gate) in applied or (module is not None and applied_gate(module) is not None):
            continue
        if module is not None and all(module is not sibling for sibling in kept.siblings):
            missing.append((kept, kept.path))
        else:
            layer = None if kept.norm is None else layer_with_norm(owner, kept.norm)
            missing.append((kept, layer))
    return missing


def refuse_lost_gates(model: nn.Module) -> None:
    """Check that each gate of a network is in it, or that `repair` would put it back.

    Raises:
        RuntimeError: if the module of a gate was removed.
    """
    for owner in model.modules():
        for kept, path in missing_gates(owner) if kept_gates(owner) else ():
            if path is None:
                raise _lost(owner, kept)


def _lost(owner: nn.Module, kept: KeptGate) -> RuntimeError:
    return RuntimeError(
        f"the gate at {kept.path!r} in {type(owner).__name__} has lost its module, which was "
        "removed after boosting, and no layer shows that the module was folded into it. Take the "
        "gates off (ab.unboost), change the network and boost it again; or fold it with "
        "ab.fold(model), which keeps the gates, in place of another tool's fusing; or give that "
        "tool ab.materialize(model)"
    )


def _repair_owner(owner: nn.Module) -> list[str]:
    """Put the gates of an owner back; returns the paths of those that a tool had dropped.

    A gate that goes to the layer into which its norm was folded has not been dropped.
    """
    dropped = []
    held = {id(module) for module in owner.modules()}
    missing = missing_gates(owner)
    if missing and torch.jit.is_tracing():
        raise RuntimeError(
            f"a tool has rebuilt {missing[0][0].path!r} in {type(owner).__name__}, and its gate is "
            "not on it; call ab.repair(model) before tracing it"
        )
    for kept, path in missing:
        if path is None:
            raise _lost(owner, kept)
        module = owner.get_submodule(path)
        if id(kept.gate) not in held:
            if path == kept.path:
                dropped.append(path)
            like = next((t for t in tensors_in(module) if t.is_floating_point()), None)
            with torch.inference_mode(False):
                if like is not None:
                    kept.gate.to(device=like.device, dtype=like.dtype)
            kept.gate.train(module.training and owner.training)
        add_gate(module, kept.gate)
        if path != kept.path:
            kept.path, kept.siblings, kept.norm = path, _siblings(owner, path), None
        kept.current_path = path
    done = {id(kept) for kept, _ in missing}
    applied = {id(applied_gate(m)): name for name, m in owner.named_modules() if name}
    for kept in kept_gates(owner):
        if id(kept.gate) in applied:  # the module may have been moved
            kept.current_path = applied[id(kept.gate)]
        elif id(kept) not in done and (copied := _find(owner, kept.path)) is not None:
            # a tool put a copy of the module there, with a copy of the gate
            kept.gate = applied_gate(copied) or kept.gate
            kept.current_path = kept.path
    return dropped


def tensors_in(module: nn.Module) -> Iterator[torch.Tensor]:
    """The parameters of a module, then its buffers."""
    yield from module.parameters()
    yield from module.buffers()

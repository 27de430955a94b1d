"""Put gates on the outputs of named modules of any network, and take them off again.

Every parameter and buffer of the network keeps its name, so a base checkpoint still loads. Tools
that rebuild a norm (`convert_sync_batchnorm`, timm's `freeze`) put a plain module in place of the
gated one. A hook of torch on the registration of modules hands the gate to the new module at once.
A tool that writes into `_modules` passes that hook by. The module around the gated one, its
*owner*, therefore remembers its gates too, and puts them back before its next pass.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, TypeVar

import torch
from torch import nn
from torch.nn.modules.module import _has_any_global_hook

from accuracy_booster.blocks import Recalibrate, Recipe
from accuracy_booster.errors import unknown
from accuracy_booster.surgery.gated import (
    ATTRIBUTE,
    add_gate,
    applied_gate,
    follow_rebuilt_modules,
    is_gated,
    remove_gate,
)
from accuracy_booster.surgery.sites import Site

KEPT = "_kept_gates"  # on an owner: [KeptGate], not registered
Model = TypeVar("Model", bound=nn.Module)


@dataclass(eq=False)
class KeptGate:
    """What an owner remembers of one gate.

    Attributes:
        path: the name of the gated module inside the owner.
        gate: the gate.
        now: its name after a tool moved it (wrapped it, say).
        others: the modules beside the gated one when the gate was attached. One of them in the
            gated module's place was moved there; any other module was built in its place.
    """

    path: str
    gate: Recalibrate
    now: str
    others: list[nn.Module]


def attach(model: Model, recipe: str | Recipe, sites: Iterable[Site]) -> Model:
    """Put a gate on the output of each site, in place; returns the model.

    A gate gets the device and dtype of its site's parameters. Nothing changes if a site is refused.

    Raises:
        ValueError: for a site that already has a gate or an attribute of that name, and for a
            recipe that does not fit a site (groups that do not divide, say), naming the site.
    """
    follow_rebuilt_modules()
    modules = dict(model.named_modules())
    gates: dict[str, Recalibrate] = {}
    for site in sites:
        if site.name not in modules:
            raise unknown("module", site.name, modules)
        if is_gated(modules[site.name]) or hasattr(modules[site.name], ATTRIBUTE):
            raise ValueError(f"module {site.name!r} already has {ATTRIBUTE!r}; detach it first")
        try:
            gate = Recalibrate(
                site.channels, recipe, spatial_size=site.spatial_size, layout=site.layout
            )
        except ValueError as e:
            raise ValueError(f"at {site.name!r}: {e}") from None
        gate.name_norms(f"{site.name}.{ATTRIBUTE}" if site.name else ATTRIBUTE)
        gates[site.name] = gate
    fallback = next(model.parameters(), torch.empty(0))
    done: list[str] = []
    for name, gate in gates.items():
        module = modules[name]
        like = next(module.parameters(), fallback)
        gate.to(device=like.device, dtype=like.dtype).train(module.training)
        try:
            add_gate(module, gate)
        except ValueError as e:
            detach(model, done)
            raise ValueError(f"at {name!r}: {e}") from None
        done.append(name)
    every = dict(model.named_modules(remove_duplicate=False))
    for name, module in every.items():
        for gate in (gates[n] for n in gates if name and modules[n] is module):
            _keep(every, name, gate)
    return model


def _keep(modules: dict[str, nn.Module], name: str, gate: Recalibrate) -> None:
    """Have the owner of a gated module remember its gate; the root has none."""
    owner = modules[owner_name := _owner(modules, name)]
    parent = modules[name.rpartition(".")[0]]
    others = [m for m in parent._modules.values() if m is not None and m is not modules[name]]
    path = name.removeprefix(f"{owner_name}.")
    owner.__dict__.setdefault(KEPT, []).append(KeptGate(path, gate, path, others))
    if _before_pass not in owner._forward_pre_hooks.values():
        owner.register_forward_pre_hook(_before_pass)


def _owner(modules: dict[str, nn.Module], name: str) -> str:
    """The nearest module around `name` that runs itself (a ModuleList does not)."""
    while name:
        name = name.rpartition(".")[0]
        if not isinstance(modules[name], (nn.ModuleList, nn.ModuleDict)):
            return name
    return name


def _before_pass(owner: nn.Module, args: tuple[Any, ...]) -> None:
    """The hook of an owner. A compiler that follows it stops at what must be repaired first."""
    for kept in getattr(owner, KEPT):
        module = _find(owner, kept.now)
        if module is None or applied_gate(module) is not kept.gate:
            if torch.compiler.is_dynamo_compiling():
                raise RuntimeError(
                    f"a tool has rebuilt {kept.path!r}, and its gate is not on it; run the network "
                    "once before compiling it whole"
                )
            dropped = torch.compiler.disable(_repair_owner)(owner)  # not for a compiler to follow
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

    Raises:
        RuntimeError: if the module of a gate was removed.
    """
    for module in list(model.modules()):
        if KEPT in module.__dict__:
            _repair_owner(module)
    return model


def _repair_owner(owner: nn.Module) -> list[str]:
    """Put an owner's gates back; returns the paths of those that had been dropped."""
    dropped = []
    held = {id(module) for module in owner.modules()}
    applied = {id(applied_gate(m)): name for name, m in owner.named_modules() if name}
    for kept in owner.__dict__[KEPT]:
        module = _find(owner, kept.path)
        if id(kept.gate) in applied:  # the module may have been moved
            kept.now = applied[id(kept.gate)]
            continue
        if module is not None and (gate := applied_gate(module)) is not None:
            kept.gate = gate  # a copy of the module, with a copy of the gate
            kept.now = kept.path
            continue
        if module is None or any(module is other for other in kept.others):
            raise RuntimeError(
                f"the gate at {kept.path!r} in {type(owner).__name__} has lost its module, which "
                "was removed after boosting. Take the gates off (ab.unboost), change the network "
                "and boost it again; or fold it with ab.fold(model), which keeps the gates, in "
                "place of another tool's fusing; or give that tool ab.materialize(model)"
            )
        if id(kept.gate) not in held:
            dropped.append(kept.path)
            like = next((t for t in _tensors_in(module) if t.is_floating_point()), None)
            if like is not None:
                kept.gate.to(device=like.device, dtype=like.dtype)
            kept.gate.train(module.training)
        add_gate(module, kept.gate)
        kept.now = kept.path
    return dropped


def _tensors_in(module: nn.Module) -> Iterator[torch.Tensor]:
    yield from module.parameters()
    yield from module.buffers()


def attached(model: nn.Module) -> dict[str, Recalibrate]:
    """The gates on a model, by the qualified name of the module whose output they scale.

    Gates whose module was rebuilt since, and that the next pass puts back, are among them.
    """
    if not isinstance(model, nn.Module):
        raise ValueError(f"expected an nn.Module, got {type(model).__name__}")
    gates: dict[str, Recalibrate] = {}
    waiting: dict[str, Recalibrate] = {}
    for name, module in model.named_modules():
        for kept in module.__dict__.get(KEPT, ()):
            waiting[f"{name}.{kept.now}" if name else kept.now] = kept.gate
        gate = applied_gate(module) or waiting.get(name)
        if gate is not None:
            gates[name] = gate
    first: dict[int, str] = {}
    for name, gate in gates.items():
        first.setdefault(id(gate), name)
    return {name: gate for name, gate in gates.items() if first[id(gate)] == name}


def detach(model: Model, names: Iterable[str] | None = None) -> Model:
    """Take every gate off again, or those of the named modules, in place; returns the model."""
    everything = names is None
    gates = attached(model)
    modules = dict(model.named_modules())
    taken = set(gates if names is None else names)
    for name in taken:
        if is_gated(modules[name]):
            remove_gate(modules[name])
        else:  # rebuilt since, and not repaired
            modules[name]._modules.pop(ATTRIBUTE, None)
    off = {id(gates[name]) for name in taken}
    for module in modules.values():
        if KEPT in module.__dict__:
            kept = module.__dict__[KEPT]
            left = [] if everything else [k for k in kept if id(k.gate) not in off]
            module.__dict__[KEPT] = left
            if not left:
                del module.__dict__[KEPT]
                _remove(module._forward_pre_hooks, _before_pass)
    return model


@contextmanager
def disabled(model: nn.Module) -> Iterator[nn.Module]:
    """`with ab.disabled(model):` the network computes without its gates."""
    gates = attached(model).values()
    before = [gate.enabled for gate in gates]
    try:
        for gate in gates:
            gate.enabled = False
        yield model
    finally:
        for gate, flag in zip(gates, before, strict=True):
            gate.enabled = flag


def has_kept_gates(model: nn.Module) -> bool:
    """Whether modules of a network remember gates, also of modules that were removed since."""
    return any(KEPT in module.__dict__ for module in model.modules())


def is_hooked(module: nn.Module) -> bool:
    """Whether somebody else's hook reads what goes in or comes out of a module."""
    hooks = (*module._forward_hooks.values(), *module._forward_pre_hooks.values())
    return any(hook is not _before_pass for hook in hooks) or bool(
        module._backward_hooks or module._backward_pre_hooks
    )


def is_read(*modules: nn.Module) -> bool:
    """Whether a hook of somebody else, on these modules or on all, reads their outputs."""
    return _has_any_global_hook() or any(map(is_hooked, modules))


def _remove(hooks: dict[int, Any], function: Any) -> None:
    for key, hook in list(hooks.items()):
        if hook is function:
            del hooks[key]

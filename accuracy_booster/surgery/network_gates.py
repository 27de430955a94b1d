"""A boosted network notices that modules around its gates have gone.

Each gate is remembered by the module around it, its owner (`gate_owners`). Where a tool removes a
container, the owner goes with it, and nobody would miss the gate. So the network remembers the
owners. Before each pass it looks whether they are still at their places. If not, gates that are
elsewhere in it get new owners, and a warning names those that are gone.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from accuracy_booster.surgery.gate_owners import keep_gate
from accuracy_booster.surgery.gate_warnings import warn_of_lost_gates
from accuracy_booster.surgery.gated import applied_gate
from accuracy_booster.surgery.gating import add_gate, fit_gate
from accuracy_booster.surgery.kept_gates import KEPT, OWNERS, KeptGate, Owner, find, kept_gates
from accuracy_booster.surgery.replaced_containers import gates_inside, replacement


def remember_owners(model: nn.Module) -> None:
    """Have a network remember the owners of all gates inside it, or nothing if there are none."""
    owners = [
        Owner(tuple(name.split(".")), module)
        for name, module in model.named_modules(remove_duplicate=False)
        if name and kept_gates(module)
    ]
    hooks = model._forward_pre_hooks
    for key in [key for key, hook in hooks.items() if hook is before_network and not owners]:
        del hooks[key]
    if owners and before_network not in hooks.values():
        model.register_forward_pre_hook(before_network)
    if owners or kept_gates(model):
        model.__dict__[OWNERS] = owners
    else:
        model.__dict__.pop(OWNERS, None)


def forget_removed_owners(network: nn.Module) -> None:
    """Have a network, and boosted parts in it, forget the owners that were taken out on purpose."""
    for module in network.modules():
        if OWNERS in module.__dict__:
            remember_owners(module)


def before_network(model: nn.Module, args: tuple[Any, ...]) -> None:
    """The forward pre-hook of a boosted network.

    Raises:
        RuntimeError: where something is missing while `torch.compile` or `torch.export` traces the
            pass.
    """
    for owner in getattr(model, OWNERS, ()):
        module: Any = model
        for name in owner.names:
            module = module._modules.get(name)
            if module is None:
                break
        if module is None or not hasattr(module, KEPT):
            if torch.compiler.is_dynamo_compiling():
                raise RuntimeError(
                    f"{'.'.join(owner.names)!r} was replaced or removed after boosting; call "
                    "ab.repair(model) before compiling the network"
                )
            torch.compiler.disable(renew_owners)(model)
            return


def lost_gates(model: nn.Module) -> list[str]:
    """The names of gated modules that went away with the containers around them; changes nothing.

    Those of which a warning has been given are not among them.
    """
    return [
        name
        for name, kept, successor in _without_owner(model)
        if successor is None and not kept.told
    ]


def renew_owners(model: nn.Module) -> None:
    """Give gates whose owners have gone new owners, and warn of gates that have gone, in place."""
    if OWNERS not in model.__dict__:
        return
    lost = []
    for name, kept, successor in _without_owner(model):
        if successor is None:
            lost += [] if kept.told else [name]
        elif applied_gate(successor) is None:
            fit_gate(kept.gate, successor)
            add_gate(successor, kept.gate)
    owned = {id(k.gate) for module in model.modules() for k in kept_gates(module)}
    every = dict(model.named_modules(remove_duplicate=False))
    remembered = {id(k.gate) for owner in model.__dict__[OWNERS] for k in kept_gates(owner.module)}
    for name, gate in gates_inside(model).items():
        if name and id(gate) in remembered - owned:
            keep_gate(every, name, gate)
    remember_owners(model)
    if lost:
        warn_of_lost_gates(lost, model)


def _without_owner(model: nn.Module) -> list[tuple[str, KeptGate, nn.Module | None]]:
    """Gates whose owners have gone from a network: the former name, what the owner remembered, and
    the module that has the gate now or is to get it.
    """
    owners = model.__dict__.get(OWNERS, [])
    gone = [o for o in owners if find(model, ".".join(o.names)) is not o.module]
    if not gone:
        return []
    held = {id(applied_gate(m)): m for m in model.modules() if applied_gate(m) is not None}
    owned = {id(k.gate) for module in model.modules() for k in kept_gates(module)}
    remembered = {id(k.gate) for owner in owners for k in kept_gates(owner.module)}
    found: list[tuple[str, KeptGate, nn.Module | None]] = []
    for owner in gone:
        path = ".".join(owner.names)
        here = find(model, path)
        for kept in kept_gates(owner.module):
            if id(kept.gate) in held:
                found.append((f"{path}.{kept.path}", kept, held[id(kept.gate)]))
            elif id(kept.gate) in owned:
                continue
            elif here is not None and gates_inside(here):
                if not remembered & {id(gate) for gate in gates_inside(here).values()}:
                    continue  # a copy of the owner, with copies of the gates
                found.append((f"{path}.{kept.path}", kept, None))
            else:
                fits = here is not None and replacement(owner.module, here).gate is kept.gate
                found.append((f"{path}.{kept.path}", kept, here if fits else None))
    return found

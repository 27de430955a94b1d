"""Put gates on the outputs of named modules of any network, and take them off again.

Every parameter and buffer of the network keeps its name, so a checkpoint of the base still loads.
How a module applies its gate is in `gating`; how gates survive tools that rebuild modules is in
`repairing`.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager

import torch
from torch import nn

from accuracy_booster.blocks import Recalibrate, Recipe
from accuracy_booster.errors import unknown
from accuracy_booster.spelling import renamed
from accuracy_booster.surgery.configurations import note_gates
from accuracy_booster.surgery.gate_owners import forget_gates, keep_gate
from accuracy_booster.surgery.gated import ATTRIBUTE, is_gated
from accuracy_booster.surgery.gating import (
    add_gate,
    follow_rebuilt_modules,
    remove_gate,
    tensors_in,
)
from accuracy_booster.surgery.listing import attached
from accuracy_booster.surgery.network_gates import forget_removed_owners, remember_owners
from accuracy_booster.surgery.repairing import Model
from accuracy_booster.surgery.sites import Site


@renamed("recipe", "block", position=1)
def attach(model: Model, block: str | Recipe, sites: Iterable[Site]) -> Model:
    """Put a gate on the output of each site, in place; returns the model.

    A gate gets the device and dtype of its site's parameters. Nothing changes if a site is refused.

    Args:
        model: any network.
        block: what the gates compute: a name, a text, or an `ab.recipe(...)`.
        sites: where to put gates.

    Raises:
        ValueError: for a site that already has a gate or an attribute of that name, and for a
            block that does not fit a site (groups that do not divide, say), naming the site.
    """
    attach_unnoted(model, block, sites)
    note_gates(model)
    return model


def attach_unnoted(model: nn.Module, block: str | Recipe, sites: Iterable[Site]) -> None:
    """`attach`, without a word in the configuration of the network."""
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
                site.channels, block, spatial_size=site.spatial_size, layout=site.layout
            )
        except ValueError as e:
            raise ValueError(f"at {site.name!r}: {e}") from None
        gate.name_norms(f"{site.name}.{ATTRIBUTE}" if site.name else ATTRIBUTE)
        gates[site.name] = gate
    fallback = next(model.parameters(), torch.empty(0))
    done: list[str] = []
    for name, gate in gates.items():
        module = modules[name]
        like = next((t for t in tensors_in(module) if t.is_floating_point()), fallback)
        gate.to(device=like.device, dtype=like.dtype).train(module.training)
        if like.is_meta:
            gate.__dict__["made_on_meta"] = True  # see `Recalibrate`
        else:  # transformers gives modules without this mark new values
            for part in gate.modules():
                part.__dict__["_is_hf_initialized"] = True
        try:
            add_gate(module, gate)
        except ValueError as e:
            detach_unnoted(model, done)
            raise ValueError(f"at {name!r}: {e}") from None
        done.append(name)
    every = dict(model.named_modules(remove_duplicate=False))
    for name, module in every.items():  # a shared module has several names, and owners
        for gate in (gates[n] for n in gates if name and modules[n] is module):
            keep_gate(every, name, gate)
    remember_owners(model)


def detach(model: Model, names: Iterable[str] | None = None) -> Model:
    """Take all gates off again, or those of the named modules, in place; returns the model."""
    detach_unnoted(model, names)
    note_gates(model)
    return model


def detach_unnoted(model: nn.Module, names: Iterable[str] | None = None) -> None:
    """`detach`, without a word in the configuration of the network."""
    gates = attached(model)
    modules = dict(model.named_modules())
    taken = set(gates if names is None else names)
    for name in taken:
        if is_gated(modules[name]):
            remove_gate(modules[name])
        else:  # the module was rebuilt since, and not repaired
            modules[name]._modules.pop(ATTRIBUTE, None)
    off = None if names is None else {id(gates[name]) for name in taken}
    for module in modules.values():
        forget_gates(module, off)
    forget_removed_owners(model)


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

"""One mechanism puts a gate on the output of a named module of any network.

The gate is a child of that module under the one name `recalibrate`, applied by a forward hook, so
every parameter and buffer of the network keeps its name and a base checkpoint still loads. The hook
is a plain function of this file: a boosted network copies, pickles and compiles as before.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, TypeVar

import torch
from torch import nn

from accuracy_booster.blocks import Recalibrate, Recipe
from accuracy_booster.errors import unknown
from accuracy_booster.surgery.sites import Site

ATTRIBUTE = "recalibrate"
Model = TypeVar("Model", bound=nn.Module)


def _apply(module: nn.Module, args: tuple[Any, ...], output: torch.Tensor) -> torch.Tensor:
    return getattr(module, ATTRIBUTE)(output)


def attach(model: Model, recipe: str | Recipe, sites: Iterable[Site]) -> Model:
    """Put a gate on the output of each site, in place; returns the model.

    A gate gets the device and dtype of its site's parameters. Nothing changes if a site is refused.

    Raises:
        ValueError: for a site that already has a gate or an attribute of that name, and for a
            recipe that does not fit a site (groups that do not divide, say), naming the site.
    """
    modules = dict(model.named_modules())
    gates = {}
    for site in sites:
        if site.name not in modules:
            raise unknown("module", site.name, modules)
        if hasattr(modules[site.name], ATTRIBUTE):
            raise ValueError(f"module {site.name!r} already has {ATTRIBUTE!r}; detach it first")
        try:
            gate = Recalibrate(site.channels, recipe, spatial_size=site.spatial_size)
        except ValueError as e:
            raise ValueError(f"at {site.name!r}: {e}") from None
        gate.name_norms(f"{site.name}.{ATTRIBUTE}" if site.name else ATTRIBUTE)
        gates[site.name] = gate
    fallback = next(model.parameters(), torch.empty(0))
    for name, gate in gates.items():
        module = modules[name]
        like = next(module.parameters(), fallback)
        gate.to(device=like.device, dtype=like.dtype).train(module.training)
        module.add_module(ATTRIBUTE, gate)
        module.register_forward_hook(_apply)
    return model


def attached(model: nn.Module) -> dict[str, Recalibrate]:
    """The gates on a model, by the qualified name of the module whose output they scale."""
    return {
        name: gate
        for name, module in model.named_modules()
        if isinstance(gate := module._modules.get(ATTRIBUTE), Recalibrate)
    }


def detach(model: Model) -> Model:
    """Take every gate off again, in place; returns the model."""
    modules = dict(model.named_modules())
    for name in attached(model):
        module = modules[name]
        for key, hook in list(module._forward_hooks.items()):
            if hook is _apply:
                del module._forward_hooks[key]
        delattr(module, ATTRIBUTE)
    return model

"""One mechanism puts a gate on the output of a named module of any network.

The gate is a child of that module under the one name `recalibrate`, applied by a forward hook, so
every parameter and buffer of the network keeps its name and a base checkpoint still loads. The hook
is a plain function of this file: a boosted network copies, pickles and compiles as before.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, TypeVar

import torch
from torch import _dynamo, nn
from torch.nn.modules.module import _has_any_global_hook

from accuracy_booster.blocks import Recalibrate, Recipe
from accuracy_booster.errors import unknown
from accuracy_booster.surgery.sites import Site

# torch.compile takes two modules of one class for alike, whatever their hooks, unless it guards
# them: a boosted network compiled after a plain one of its class would run without its gates.
if _dynamo.config.skip_nnmodule_hook_guards:
    _dynamo.config.skip_nnmodule_hook_guards = False
    _dynamo.reset()  # what was compiled before has no such guards

ATTRIBUTE = "recalibrate"
REPORT = "_fast_path"  # on a fused or folded model: what was done
KEPT = "_recalibrated"  # on the module around a site: {path of the site: gate}, not registered
Model = TypeVar("Model", bound=nn.Module)


class Replaced(nn.Identity):
    """Stands where an attention module was; keeps that module, unregistered, for `unboost`."""

    def __init__(self, original: nn.Module):
        super().__init__()
        self.__dict__["original"] = original

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        gate = getattr(self, ATTRIBUTE, None)
        if gate is not None and not gate.enabled:  # within `ab.disabled`
            return self.__dict__["original"](x)
        return x

    def train(self, mode: bool = True):
        self.__dict__["original"].train(mode)
        return super().train(mode)

    def _apply(self, fn: Any, recurse: bool = True):
        self.__dict__["original"]._apply(fn, recurse)  # it follows the model's device and dtype
        return super()._apply(fn, recurse)


def _apply(module: nn.Module, args: tuple[Any, ...], output: torch.Tensor) -> torch.Tensor:
    if getattr(module, "applies_gate", False):  # a fused module has done so
        return output
    return getattr(module, ATTRIBUTE)(output)


def _restore(owner: nn.Module, args: tuple[Any, ...] = ()) -> None:
    """Put gates back on submodules that were rebuilt since, and the hooks that apply them.

    `convert_sync_batchnorm`, timm's `freeze` and their like make a new norm: they copy the old
    one's children or drop them, and lose its hooks. It runs before each pass of the module that
    `_owner` names.
    """
    if torch.compiler.is_compiling():
        return
    for path, gate in owner.__dict__[KEPT].items():
        module = owner
        for name in path.split("."):
            module = module._modules[name]  # type: ignore[assignment]
        if ATTRIBUTE not in module._modules:
            module.add_module(ATTRIBUTE, gate)
        if _apply not in module._forward_hooks.values():
            module.register_forward_hook(_apply)


def _owner(modules: dict[str, nn.Module], name: str) -> str:
    """The nearest module around `name` that runs itself (a ModuleList does not)."""
    while name:
        name = name.rpartition(".")[0]
        if not isinstance(modules[name], (nn.ModuleList, nn.ModuleDict)):
            return name
    return name


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
            gate = Recalibrate(
                site.channels, recipe, spatial_size=site.spatial_size, layout=site.layout
            )
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
        if name:  # the root has no module around it
            owner = _owner(modules, name)
            modules[owner].__dict__.setdefault(KEPT, {})[name.removeprefix(f"{owner}.")] = gate
            if _restore not in modules[owner]._forward_pre_hooks.values():
                modules[owner].register_forward_pre_hook(_restore)
    return model


def attached(model: nn.Module) -> dict[str, Recalibrate]:
    """The gates on a model, by the qualified name of the module whose output they scale."""
    if not isinstance(model, nn.Module):
        raise ValueError(f"expected an nn.Module, got {type(model).__name__}")
    for module in list(model.modules()):
        if KEPT in module.__dict__:
            _restore(module)
    return {
        name: gate
        for name, module in model.named_modules()
        if isinstance(gate := getattr(module, ATTRIBUTE, None), Recalibrate)
    }


def detach(model: Model, names: Iterable[str] | None = None) -> Model:
    """Take every gate off again, or those of the named modules, in place; returns the model."""
    gates = attached(model)
    modules = dict(model.named_modules())
    taken = set(gates if names is None else names)
    for name in taken:
        gate = modules[name]._modules.pop(ATTRIBUTE)
        _remove(modules[name]._forward_hooks, _apply)
        for module in modules.values():
            kept = module.__dict__.get(KEPT, {})
            for path in [path for path, other in kept.items() if other is gate]:
                del kept[path]
    for module in modules.values():
        if module.__dict__.get(KEPT) == {}:
            del module.__dict__[KEPT]
            _remove(module._forward_pre_hooks, _restore)
    return model


def is_hooked(module: nn.Module) -> bool:
    """Whether somebody else's hook reads what goes in or comes out of a module."""
    own = (_apply, _restore)
    hooks = (*module._forward_hooks.values(), *module._forward_pre_hooks.values())
    return any(hook not in own for hook in hooks) or bool(
        module._backward_hooks or module._backward_pre_hooks
    )


def is_read(*modules: nn.Module) -> bool:
    """Whether a hook of somebody else, on these modules or on all, reads their outputs."""
    return _has_any_global_hook() or any(map(is_hooked, modules))


def _remove(hooks: dict[int, Any], function: Any) -> None:
    for key, hook in list(hooks.items()):
        if hook is function:
            del hooks[key]


def replace_attention(model: nn.Module, sites: Iterable[Site]) -> None:
    """Put an identity where each site's module is; `put_back_attention` undoes it."""
    for site in sites:
        parent, _, child = site.name.rpartition(".")
        original = model.get_submodule(site.name)
        stand_in = Replaced(original).train(original.training)
        setattr(model.get_submodule(parent), child, stand_in)


def put_back_attention(model: nn.Module) -> None:
    for name, module in list(model.named_modules()):
        if isinstance(module, Replaced):
            parent, _, child = name.rpartition(".")
            setattr(model.get_submodule(parent), child, module.__dict__["original"])

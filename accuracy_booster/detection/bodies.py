"""A classification network without its head that gives its feature maps, in place."""

# N batch, H W space

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable
from typing import Any

import torch
from torch import nn

from accuracy_booster.detection.norms import HoldsNorms
from accuracy_booster.surgery.repairing import KEPT


class _Reached(Exception):
    """The last map is there; nothing after it is computed."""


def run_to(
    owner: nn.Module, network: Any, x: torch.Tensor, names: Iterable[str]
) -> dict[str, torch.Tensor]:
    """x[N, 3, H, W] -> {module: its output}, of named modules inside `owner`, in order.

    `network` is what is called. The pass ends with the last of the modules.
    """
    maps: dict[str, torch.Tensor] = {}
    wanted = list(names)

    def keep(name: str) -> Any:
        def hook(module: nn.Module, args: Any, output: torch.Tensor) -> None:
            maps[name] = output
            if len(maps) == len(wanted):
                raise _Reached

        return hook

    handles = [owner.get_submodule(n).register_forward_hook(keep(n)) for n in wanted]
    try:
        network(x)
    except _Reached:
        return {name: maps[name] for name in wanted}
    finally:
        for handle in handles:
            handle.remove()
    missing = next(name for name in wanted if name not in maps)
    raise RuntimeError(f"{type(owner).__name__} did not run its module {missing!r} in this pass")


class FeatureMaps(HoldsNorms):
    """A network that gives its feature maps: x[N, 3, H, W] -> {"0": map, "1": map, ...}.

    It is the network itself with its class changed and its head taken away, so that its modules,
    their names and their gates are what they were.
    """

    map_keys: dict[str, str]  # {module: key}

    def forward(self, x: torch.Tensor) -> OrderedDict[str, torch.Tensor]:
        with self.norms_held():
            found = run_to(self, super().forward, x, self.map_keys)  # type: ignore[arg-type, misc]
        return OrderedDict((key, found[name]) for name, key in self.map_keys.items())

    def __reduce_ex__(self, protocol: Any) -> Any:
        reduced: Any = super().__reduce_ex__(protocol)
        make, args, *rest = reduced
        base = type(self).__bases__[-1]
        return (_rebuild, (make, *(base if a is type(self) else a for a in args)), *rest)


_made: dict[type, type] = {}


def _class_for(base: type) -> type:
    if base not in _made:
        name = f"{base.__name__}Features"
        _made[base] = type(name, (FeatureMaps, base), {"__module__": __name__})
    return _made[base]


def _rebuild(make: Any, *args: Any) -> Any:
    """What a pickle calls: an object of the network's own class, made to give its maps."""
    module = make(*args)
    setattr(module, "__class__", _class_for(type(module)))  # noqa: B010 - for mypy
    return module


def give_maps(network: nn.Module, head: Iterable[str], names: Iterable[str]) -> Any:
    """Take the head away and change the class, in place: the network gives the maps of `names`.

    Args:
        head: the modules that no pass to the last map needs.
    """
    for name in head:
        take_away(network, name)
    setattr(network, "__class__", _class_for(type(network)))  # noqa: B010 - for mypy
    network.__dict__["map_keys"] = {name: str(k) for k, name in enumerate(names)}
    return network


def take_away(network: nn.Module, name: str) -> nn.Module:
    """Take a module that no pass needs any more out of a network; returns it.

    In its place stays None, or in a container that runs its children a module that does nothing.
    """
    parent, _, child = name.rpartition(".")
    around = network.get_submodule(parent)
    module = around._modules[child]
    assert module is not None
    container = isinstance(around, (nn.Sequential, nn.ModuleList, nn.ModuleDict))
    around._modules[child] = nn.Identity() if container else None
    for owner_name, owner in network.named_modules():  # what they remember of gates in it
        if KEPT in owner.__dict__:
            inside = name if not owner_name else name.removeprefix(f"{owner_name}.")
            kept = owner.__dict__[KEPT]
            owner.__dict__[KEPT] = [k for k in kept if not f"{k.path}.".startswith(f"{inside}.")]
    return module

"""Makes a classification network give its feature maps, in place and without its head."""

# N batch, H W space

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable
from typing import Any

import torch
from torch import nn

from accuracy_booster.detection.norms import HoldsNorms
from accuracy_booster.surgery.gate_owners import forget_gates_under
from accuracy_booster.surgery.network_gates import forget_removed_owners


class _Reached(Exception):
    """Raised as soon as the last map is computed, so that nothing after it is."""


def run_to(
    owner: nn.Module, network: Any, x: torch.Tensor, names: Iterable[str]
) -> dict[str, torch.Tensor]:
    """x[N, 3, H, W] -> {module: its output} for modules inside `owner`, in the given order.

    The pass ends when the last of the modules has run.

    Args:
        owner: the module that the names are relative to.
        network: what is called with x.
        names: of the modules.

    Raises:
        RuntimeError: if one of the modules does not run.
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

    It is the classification network itself: `give_maps` changes its class and takes its head away.
    So its modules, their names and their gates stay as they were.

    Attributes:
        map_keys: {module: key of its map}.
    """

    map_keys: dict[str, str]

    def forward(self, x: torch.Tensor) -> OrderedDict[str, torch.Tensor]:
        with self.norms_held():
            found = run_to(self, super().forward, x, self.map_keys)  # type: ignore[arg-type, misc]
        return OrderedDict((key, found[name]) for name, key in self.map_keys.items())

    def __reduce_ex__(self, protocol: Any) -> Any:
        """Pickle as the network's own class: the class made by `_class_for` cannot be imported."""
        reduced: Any = super().__reduce_ex__(protocol)
        make, args, *rest = reduced
        base = type(self).__bases__[-1]
        return (_rebuild, (make, *(base if a is type(self) else a for a in args)), *rest)


# {class of a network: the class that gives its maps}. This is only a cache: each class is made
# once, so that copies of a network share it.
_CLASSES: dict[type, type] = {}


def _class_for(base: type) -> type:
    """The class of a network of class `base` that gives its maps."""
    if base not in _CLASSES:
        name = f"{base.__name__}Features"
        _CLASSES[base] = type(name, (FeatureMaps, base), {"__module__": __name__})
    return _CLASSES[base]


def _rebuild(make: Any, *args: Any) -> Any:
    """Called by pickle: makes an object of the network's own class, and changes its class."""
    module = make(*args)
    setattr(module, "__class__", _class_for(type(module)))  # noqa: B010 - for mypy
    return module


def give_maps(network: nn.Module, head: Iterable[str], names: Iterable[str]) -> Any:
    """Make a network give the outputs of modules as its feature maps, in place; returns it.

    Args:
        head: the modules that are taken away, which no pass to the last map needs.
        names: of the modules whose outputs are the maps.
    """
    for name in head:
        take_away(network, name)
    setattr(network, "__class__", _class_for(type(network)))  # noqa: B010 - for mypy
    maps: Any = network
    maps.map_keys = {name: str(k) for k, name in enumerate(names)}
    return maps


def take_away(network: nn.Module, name: str) -> nn.Module:
    """Take a module that no pass needs out of a network; returns the module.

    It is replaced by None. In a container, which may run its children, it is replaced by an
    identity.
    """
    parent, _, child = name.rpartition(".")
    owner = network.get_submodule(parent)
    module = owner._modules[child]
    assert module is not None
    container = isinstance(owner, (nn.Sequential, nn.ModuleList, nn.ModuleDict))
    owner._modules[child] = nn.Identity() if container else None
    # modules around it may have a list of the gates inside them, which then must not be in it
    for around_name, around in network.named_modules():
        inside = name if not around_name else name.removeprefix(f"{around_name}.")
        forget_gates_under(around, inside)
    forget_removed_owners(network)
    return module

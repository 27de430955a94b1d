"""The configuration that a tool builds a network from carries the record of the network's gates.

ultralytics builds a network from the dict `model.yaml`, transformers from the object
`model.config`. Boosting writes the record under `KEY` there, in a copy: another network that is
built from the same configuration stays plain. `configured_gates` reads it.
"""

from __future__ import annotations

import copy
import gc
import sys
import warnings
from typing import Any

from torch import nn

from accuracy_booster.surgery.constructors import state_of_module, under_construction
from accuracy_booster.surgery.gate_records import gate_record
from accuracy_booster.surgery.listing import attached
from accuracy_booster.surgery.wrappers import unwrapped

KEY = "accuracy_booster"
BUILDERS = ("transformers", "ultralytics")  # packages that build networks from configurations


def configuration_of(module: nn.Module) -> Any:
    """What a tool can build this module from: a dict, or a configuration of transformers; or None.

    Only the module's own attributes are looked at. The hook on each registration calls this.
    """
    state = state_of_module(module)
    if "config" not in state and "yaml" not in state:  # nearly always
        return None
    if isinstance(state.get("yaml"), dict):
        return state["yaml"]
    config = state.get("config")
    return config if is_configuration(config) else None


def is_configuration(value: Any) -> bool:
    """Whether a value is a configuration as those of transformers."""
    kind = type(value)  # asked in place of the object, which may answer with code of its own
    return hasattr(kind, "model_type") and hasattr(kind, "to_dict")


def record_in(configuration: Any) -> Any:
    """The record of gates that a configuration carries, or None."""
    if isinstance(configuration, dict):
        return configuration.get(KEY)
    return getattr(configuration, KEY, None)


def note_gates(model: nn.Module) -> None:
    """Have the configurations in a network say which gates it has now.

    Each module that can be built from a configuration gets a copy that carries the record of the
    gates in it, and shares the copy with the modules in it that shared the old one. Without gates
    the copy carries none. A configuration that cannot be copied stays, with a warning.
    """
    _note(unwrapped(model), {})


def note_gates_everywhere(model: nn.Module) -> None:
    """`note_gates` for a network and for those that it is a part of, if there are such.

    A module does not know what holds it, so the garbage collector is asked. It takes 0.1 s and
    more for each module around, and is left out where no package is imported that builds so.
    """
    model = unwrapped(model)
    holders = _outermost_holders(model) if any(name in sys.modules for name in BUILDERS) else []
    for network in holders or [model]:
        _note(network, {})


def _outermost_holders(part: nn.Module) -> list[nn.Module]:
    """The modules in which a module is, at any depth, and that are in no other."""
    found: dict[int, nn.Module] = {}
    outermost: dict[int, nn.Module] = {}
    waiting = [part]
    while waiting:
        module = waiting.pop()
        holders = _holders(module)
        if not holders and module is not part:
            outermost[id(module)] = module
        for holder in holders:
            if id(holder) not in found:
                found[id(holder)] = holder
                waiting.append(holder)
    return list(outermost.values())


def _holders(module: nn.Module) -> list[nn.Module]:
    """The modules whose child a module is.

    The garbage collector says what refers to an object. A list of all objects is not asked for:
    while it exists, Python cannot finish a tuple that another thread is building.
    """
    tables = {id(t): t for t in gc.get_referrers(module) if issubclass(type(t), dict)}
    tables.pop(id(module.__dict__), None)
    around = gc.get_referrers(*tables.values()) if tables else []
    dicts = [d for d in around if issubclass(type(d), dict)]
    states = [d for d in dicts if id(dict.get(d, "_modules")) in tables]
    around += gc.get_referrers(*states) if states else []
    return [
        other
        for other in {id(o): o for o in around if issubclass(type(o), nn.Module)}.values()
        if id(state_of_module(other).get("_modules")) in tables
    ]


def _note(module: nn.Module, copies: dict[int, Any]) -> None:
    """Note the gates of the configured modules at and below `module`.

    A module whose constructor runs is left out: a constructor that puts gates on does so each time.

    Args:
        module: where to begin.
        copies: {id of a configuration of a module around it: what takes its place}.
    """
    configuration = configuration_of(module)
    own = configuration is not None and id(configuration) not in copies
    if own and all(module is not other for other in under_construction()):
        copies = {**copies, id(configuration): _noted(module, configuration)}
    for name, value in module.__dict__.items():
        if id(value) in copies:
            module.__dict__[name] = copies[id(value)]
    for child in module.children():
        _note(child, copies)


def _noted(module: nn.Module, configuration: Any) -> Any:
    """The configuration with the record of the module's gates; itself if it says so already.

    The record says all. So those in configurations of parts, inside this one, are taken out: a
    part that was boosted alone may have had other gates.
    """
    record = gate_record(module) if attached(module) else None
    try:
        return _with_record(configuration, record)
    except Exception as e:  # a configuration may be anybody's class
        warnings.warn(
            f"the {type(configuration).__name__} of this {type(module).__name__} cannot carry the "
            f"record of its gates ({e}); after a tool has built the network anew from it, put the "
            "gates on with ab.rebuild_gates(network, ab.gate_record(model))",
            stacklevel=5,
        )
        return configuration


def _with_record(configuration: Any, record: dict[str, Any] | None) -> Any:
    """The configuration with this record and without those of its parts: itself, or a copy."""
    values = configuration if isinstance(configuration, dict) else vars(configuration)
    changes: dict[str, Any] = {}
    for key, value in values.items():
        if key != KEY and is_configuration(value):
            part = _with_record(value, None)
            changes |= {} if part is value else {key: part}
    if not changes and record == record_in(configuration):
        return configuration
    new = copy.copy(configuration)
    if new is configuration:
        raise TypeError("its copy is the same object")
    changes |= {} if record is None else {KEY: record}
    if isinstance(new, dict):
        new.pop(KEY, None)
        new.update(changes)
        return new
    if record is None and record_in(new) is not None:
        delattr(new, KEY)
    for key, value in changes.items():
        setattr(new, key, value)
    return new

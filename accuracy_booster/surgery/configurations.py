"""The configuration that a tool builds a network from carries the record of the network's gates.

ultralytics builds a network from the dict `model.yaml`, transformers from the object
`model.config`. Boosting writes the record under `KEY` there, in a copy: another network that is
built from the same configuration stays plain. `configured_gates` reads it.
"""

from __future__ import annotations

import copy
import warnings
from typing import Any

from torch import nn

from accuracy_booster.surgery.gate_records import gate_record
from accuracy_booster.surgery.listing import attached
from accuracy_booster.surgery.wrappers import unwrapped

KEY = "accuracy_booster"


def configuration_of(module: nn.Module) -> Any:
    """What a tool can build this module from: a dict, or a configuration of transformers; or None.

    Only the module's own attributes are looked at. The hook on each registration calls this.
    """
    state = module.__dict__
    if "yaml" in state and isinstance(state["yaml"], dict):
        return state["yaml"]
    config = state.get("config")
    if config is not None and hasattr(config, "model_type") and hasattr(config, "to_dict"):
        return config
    return None


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


def note_gates_inside(child: nn.Module, configuration: Any) -> None:
    """`note_gates`, but for the configuration that the child shares with the module around it."""
    _note(child, {id(configuration): configuration})


def _note(module: nn.Module, copies: dict[int, Any]) -> None:
    """Note the gates of the configured modules at and below `module`.

    Args:
        module: where to begin.
        copies: {id of a configuration of a module around it: what takes its place}.
    """
    configuration = configuration_of(module)
    if configuration is not None and id(configuration) not in copies:
        copies = {**copies, id(configuration): _noted(module, configuration)}
    for name, value in module.__dict__.items():
        if id(value) in copies:
            module.__dict__[name] = copies[id(value)]
    for child in module.children():
        _note(child, copies)


def _noted(module: nn.Module, configuration: Any) -> Any:
    """The configuration with the record of the module's gates; itself if it has that already."""
    record = gate_record(module) if attached(module) else None
    if record == record_in(configuration):
        return configuration
    try:
        new = copy.copy(configuration)
        if isinstance(new, dict):
            new.pop(KEY, None)
            new |= {} if record is None else {KEY: record}
        elif record is None:
            delattr(new, KEY)
        else:
            setattr(new, KEY, record)
    except Exception as e:  # a configuration may be anybody's class
        warnings.warn(
            f"the {type(configuration).__name__} of this {type(module).__name__} cannot carry the "
            f"record of its gates ({e}); after a tool has built the network anew from it, put the "
            "gates on with ab.rebuild_gates(network, ab.gate_record(model))",
            stacklevel=5,
        )
        return configuration
    return new

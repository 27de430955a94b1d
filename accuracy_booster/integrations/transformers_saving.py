"""How transformers saves a boosted network: the record of its gates, and a guard beside it.

Each function here is called in place of a method of transformers or peft, which it takes first.
"""

from __future__ import annotations

import json
import warnings
from collections.abc import Callable, Mapping
from contextvars import ContextVar
from pathlib import Path
from typing import Any

from torch import nn

from accuracy_booster.surgery.configurations import KEY
from accuracy_booster.surgery.gate_records import gate_record
from accuracy_booster.surgery.listing import attached
from accuracy_booster.surgery.repairing import repair
from accuracy_booster.surgery.state import state_of

# transformers takes the file of the weights from this key. It refuses a name that is no file of
# safetensors, before it builds anything, and its error quotes the name.
GUARD_KEY = "transformers_weights"
GUARD = (
    "none, as this network has gates: load it with from_pretrained of "
    "accuracy_booster.integrations.transformers"
)
# on a network: the names of the gates that its own __init__ made; building it makes them again
OWN_GATES = "_own_gates"
# the configuration of the network that is being saved, and the record of its gates
_saving: ContextVar[tuple[Any, dict[str, Any] | None] | None] = ContextVar("saving", default=None)


def save_pretrained(method: Callable[..., Any], model: Any, *args: Any, **kwargs: Any) -> Any:
    """Save a network, with the record of all its gates in the outermost configuration.

    Raises:
        ValueError: for a folded network, whose layers transformers cannot build.
    """
    report = state_of(model).fast_path
    if report is not None and report.kind == "folded":
        raise ValueError(
            f"this {type(model).__name__} is folded, and transformers cannot build its layers "
            "again; save the network that it was folded from, and fold it after loading"
        )
    if getattr(model, "_hf_peft_config_loaded", False):
        _warn_of_adapter(model)  # only the adapter is written
        return method(model, *args, **kwargs)
    repair(model)
    by_itself = attached(model).keys() == model.__dict__.get(OWN_GATES, frozenset())
    token = _saving.set((model.config, None if by_itself else gate_record(model)))
    try:
        return method(model, *args, **kwargs)
    finally:
        _saving.reset(token)


def to_json_file(
    method: Callable[..., Any], config: Any, json_file_path: Any, *args: Any, **kwargs: Any
) -> None:
    """Write config.json, with what stops a `from_pretrained` that knows nothing of gates.

    A record that lies further inside is left out where the network's own holds all gates.
    """
    method(config, json_file_path, *args, **kwargs)
    file = Path(json_file_path)
    written = json.loads(file.read_text(encoding="utf-8"))
    saving = _saving.get()
    content = written
    if saving is not None and saving[0] is config:
        content = _without_records(written)
        if saving[1] is not None:
            content[KEY] = saving[1]
    if has_record(content):
        content = {**content, GUARD_KEY: GUARD}
    if content != written:
        text = json.dumps(content, indent=2, sort_keys=True) + "\n"
        file.write_text(text, encoding="utf-8")


def has_record(config: Mapping[str, Any]) -> bool:
    """Whether a configuration, or one inside it, holds a record."""
    return KEY in config or any(has_record(v) for v in config.values() if isinstance(v, Mapping))


def _without_records(config: Mapping[str, Any]) -> dict[str, Any]:
    inner = {k: _without_records(v) if isinstance(v, Mapping) else v for k, v in config.items()}
    inner.pop(KEY, None)
    return inner


def save_adapter(method: Callable[..., Any], model: Any, *args: Any, **kwargs: Any) -> Any:
    _warn_of_adapter(model)
    return method(model, *args, **kwargs)


def _warn_of_adapter(model: nn.Module) -> None:
    if attached(model):
        warnings.warn(
            "the files of an adapter hold no gates; ab.save(model, folder) writes them, and "
            "ab.load(model, folder) adds them to the network with its adapter",
            stacklevel=4,
        )

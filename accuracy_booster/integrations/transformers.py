"""Boosted networks in transformers: they are saved, loaded and rebuilt with their gates.

`save_pretrained` writes a record of the gates into config.json, and beside it a line that stops a
`from_pretrained` which knows nothing of gates. `from_pretrained` here reads both. The methods of
transformers that write, read and build are wrapped when the first gate of a process is made, or
when `register` is called; networks without gates pass through them as before.
"""

from __future__ import annotations

import functools
import sys
import warnings
from collections.abc import Callable, Mapping
from typing import Any

from torch import nn

from accuracy_booster.surgery.attaching import attached
from accuracy_booster.surgery.gate_records import gate_record, parse_record, put_on
from accuracy_booster.surgery.gated import ATTRIBUTE
from accuracy_booster.surgery.repairing import has_kept_gates, repair

KEY = "accuracy_booster"  # of the record in a configuration
# transformers takes the file of the weights from this key. It refuses a name that is no file of
# safetensors, and its error quotes the name.
GUARD_KEY = "transformers_weights"
GUARD = "this network has gates; load it with accuracy_booster.integrations.transformers.from_pretrained"
BUILDS_GATES = "_builds_its_gates"  # on a network whose own __init__ makes its gates
_wrapped: list[tuple[Any, str, Any]] = []


def from_pretrained(path: Any, cls: Any = None, **options: Any) -> Any:
    """Load a network with its gates, as `cls.from_pretrained(path, ...)` loads one without.

    Args:
        path: a folder that `save_pretrained` or a `Trainer` wrote, or a name on the hub.
        cls: the class of the network, or an Auto class. By default the class that was saved, which
            config.json names.
        options: what `from_pretrained` of transformers takes: `dtype=`, `device_map=`,
            `num_labels=`, `ignore_mismatched_sizes=`, `output_loading_info=`, `subfolder=`, ...

    Returns:
        The network in eval mode; with `output_loading_info=True` the network and the info.

    Raises:
        ValueError: if no gates were saved there, or they do not fit the network.
        OSError: of transformers, if there is no such network.
    """
    register()
    cls = _saved_class(path, options) if cls is None else cls
    result = cls.from_pretrained(path, **options)
    model = result[0] if isinstance(result, tuple) else result
    if not attached(model):
        raise ValueError(
            f"no gates were saved with the {type(model).__name__} in {str(path)!r}; load it with "
            "transformers, and boost it with ab.boost(model)"
        )
    return result


def _saved_class(path: Any, options: Mapping[str, Any]) -> Any:
    """The class that the configuration of a saved network names."""
    import transformers

    if isinstance(given := options.get("config"), transformers.PreTrainedConfig):
        names = given.architectures
    else:
        hub = ("cache_dir", "force_download", "local_files_only", "revision", "subfolder", "token")
        found, _ = transformers.PreTrainedConfig.get_config_dict(
            path if given is None else given, **{k: options[k] for k in hub if k in options}
        )
        names = found.get("architectures")
    for name in names or ():
        if hasattr(transformers, name):
            return getattr(transformers, name)
    raise ValueError(
        f"the configuration of {str(path)!r} names the class {(names or [None])[0]!r}, which is "
        "none of transformers; give it as cls=..."
    )


def register() -> None:
    """Have `from_pretrained` of transformers itself build gates, in this process.

    The first gate of a process does so too, and so does `from_pretrained` here. Call it before
    code that loads networks by their path: a `pipeline`, or somebody's script.
    """
    from transformers import PreTrainedConfig, PreTrainedModel

    if not _wrapped:
        _wrap(PreTrainedConfig, "to_json_file", _to_json_file)
        _wrap(PreTrainedConfig, "get_config_dict", _get_config_dict)
        _wrap(PreTrainedModel, "save_pretrained", _save_pretrained)
        _wrap(PreTrainedModel, "from_pretrained", _from_pretrained)
        _wrap(PreTrainedModel, "post_init", _post_init)
    adapters: Any = sys.modules.get("peft.peft_model")
    if adapters is not None and all(cls is not adapters.PeftModel for cls, _, _ in _wrapped):
        _wrap(adapters.PeftModel, "save_pretrained", _save_adapter)


def _wrap(cls: type, name: str, wrapper: Callable[..., Any]) -> None:
    """Replace a method by one that calls `wrapper(method, self or cls, ...)`."""
    found = cls.__dict__[name]
    method = found.__func__ if isinstance(found, classmethod) else found

    @functools.wraps(method)
    def wrapped(self: Any, *args: Any, **kwargs: Any) -> Any:
        return wrapper(method, self, *args, **kwargs)

    _wrapped.append((cls, name, found))
    setattr(cls, name, classmethod(wrapped) if isinstance(found, classmethod) else wrapped)


# --- writing


def _save_pretrained(method: Callable[..., Any], model: Any, *args: Any, **kwargs: Any) -> Any:
    """Save a network, with the record of all its gates in the outermost configuration."""
    config = model.config
    if getattr(model, "_hf_peft_config_loaded", False):
        _warn_of_adapter(model)
        return method(model, *args, **kwargs)
    repair(model)
    if not attached(model) or model.__dict__.get(BUILDS_GATES):
        config.__dict__.pop(KEY, None)
    else:
        setattr(config, KEY, gate_record(model))
    return method(model, *args, **kwargs)


def _to_json_file(method: Callable[..., Any], config: Any, *args: Any, **kwargs: Any) -> Any:
    """Write config.json, with what stops a `from_pretrained` that knows nothing of gates."""
    if not _has_record(config.to_dict()):
        return method(config, *args, **kwargs)
    setattr(config, GUARD_KEY, GUARD)
    try:
        return method(config, *args, **kwargs)
    finally:
        delattr(config, GUARD_KEY)


def _has_record(config: Mapping[str, Any]) -> bool:
    """Whether a configuration, or one inside it, holds a record."""
    inner = [value for key, value in config.items() if isinstance(value, Mapping) and key != KEY]
    return bool(config.get(KEY)) or any(map(_has_record, inner))


def _warn_of_adapter(model: nn.Module) -> None:
    if attached(model):
        warnings.warn(
            "the files of an adapter hold no gates; ab.save(model, folder) writes the gates, and "
            "ab.load(model, folder) adds them to the network with its adapter",
            stacklevel=4,
        )


def _save_adapter(method: Callable[..., Any], model: Any, *args: Any, **kwargs: Any) -> Any:
    _warn_of_adapter(model)
    return method(model, *args, **kwargs)


# --- reading


def _get_config_dict(
    method: Callable[..., Any], cls: Any, *args: Any, **kwargs: Any
) -> tuple[dict[str, Any], dict[str, Any]]:
    found, rest = method(cls, *args, **kwargs)
    if found.get(GUARD_KEY) == GUARD:
        del found[GUARD_KEY]
    return found, rest


def _from_pretrained(method: Callable[..., Any], cls: Any, *args: Any, **kwargs: Any) -> Any:
    """Load a network; an error if its gates and those in the file differ."""
    with_info = kwargs.pop("output_loading_info", False)
    model, info = method(cls, *args, output_loading_info=True, **kwargs)
    for kind, words in _WRONG_KEYS.items():
        keys = [key for key in info[kind] if f".{ATTRIBUTE}." in f".{key}"]
        if keys:
            raise ValueError(
                f"{len(keys)} tensors of gates (such as {min(keys)!r}) {words} {cls.__name__}"
            )
    return (model, info) if with_info else model


_WRONG_KEYS = {
    "unexpected_keys": "were saved, and have no place: config.json holds no record of them that fits "
    "this class; load it with the class that was saved, or build the network, call ab.boost as "
    "before and load the state dict. The class is",
    "missing_keys": "are not in the file, which is that of a network without gates; load it without the "
    "configuration of a boosted one, and call ab.boost afterwards. The class is",
}


# --- building


def _post_init(method: Callable[..., Any], model: Any, *args: Any, **kwargs: Any) -> Any:
    """Finish a network that was just built, and put on the gates that its configuration records.

    A network and its base (ResNetForImageClassification and its ResNetModel) share a configuration.
    The base is finished first and takes the gates if all of them are in it.
    """
    record = getattr(model.config, KEY, None)
    if record is None:
        result = method(model, *args, **kwargs)
        if attached(model):
            model.__dict__[BUILDS_GATES] = True
        return result
    result = method(model, *args, **kwargs)
    if has_kept_gates(model):  # DETR has replaced the norms of its backbone
        repair(model)
    fitting = _fitting(model, record)
    if fitting is not None and not attached(model).keys() >= {s["name"] for s in fitting["sites"]}:
        put_on(model, parse_record(fitting))
    return result


def _fitting(model: Any, record: Mapping[str, Any]) -> dict[str, Any] | None:
    """A record with the names that its modules have in this network; None if one is missing."""
    modules = dict(model.named_modules())
    prefix = f"{model.base_model_prefix}."
    for rename in (str, lambda n: n.removeprefix(prefix), lambda n: f"{prefix}{n}"):
        if all(rename(site["name"]) in modules for site in record["sites"]):
            sites = [{**site, "name": rename(site["name"])} for site in record["sites"]]
            return {**record, "sites": sites, "replaced": [rename(n) for n in record["replaced"]]}
    return None

"""Boosted networks in transformers: they are saved, loaded and rebuilt with their gates.

`save_pretrained` writes a record of the gates into config.json, and beside it a line that stops a
`from_pretrained` that knows nothing of gates. `from_pretrained` here reads both. The methods of
transformers that write, read and build are wrapped when the first gate of a process is made, or
when `register` is called. Networks without gates pass through them as before.
"""

from __future__ import annotations

import sys
import warnings
from collections.abc import Callable, Mapping
from typing import Any

from accuracy_booster.integrations.transformers_saving import (
    GUARD_KEY,
    OWN_GATES,
    has_record,
    save_adapter,
    save_pretrained,
    to_json_file,
)
from accuracy_booster.integrations.wrapping import wrap_method
from accuracy_booster.surgery.configurations import KEY, record_in
from accuracy_booster.surgery.gated import is_of_gate
from accuracy_booster.surgery.gating import follow_rebuilt_modules
from accuracy_booster.surgery.listing import attached

_wrapped: list[tuple[type, str]] = []


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
        ValueError: if the folder has no config.json, no gates were saved there, or they do not fit
            the network.
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

    given = options.get("config", path)
    if isinstance(given, transformers.PreTrainedConfig):
        names = given.architectures or []
    else:
        hub = ("cache_dir", "force_download", "local_files_only", "revision", "subfolder", "token")
        given_hub = {key: options[key] for key in hub if key in options}
        found, _ = transformers.PreTrainedConfig.get_config_dict(given, **given_hub)
        if not found:
            raise ValueError(
                f"{str(given)!r} has no config.json that transformers can read; give the folder "
                "that save_pretrained wrote"
            )
        names = found.get("architectures") or []
    for name in names:
        if hasattr(transformers, name):
            return getattr(transformers, name)
    raise ValueError(
        f"the configuration of {str(path)!r} names the classes {names}, none of which transformers "
        "has; give the class as cls="
    )


def register() -> None:
    """Have `from_pretrained` of transformers itself build gates, in this process.

    The first gate of a process does so too, and so does `from_pretrained` here. Call it before
    code that loads networks by their path: a `pipeline`, or somebody's script.
    """
    from transformers import PreTrainedConfig, PreTrainedModel

    if not _wrapped:
        _wrap(PreTrainedConfig, "to_json_file", to_json_file)
        _wrap(PreTrainedConfig, "get_config_dict", _get_config_dict)
        _wrap(PreTrainedModel, "save_pretrained", save_pretrained)
        _wrap(PreTrainedModel, "from_pretrained", _from_pretrained)
        _wrap(PreTrainedModel, "post_init", _post_init)
        follow_rebuilt_modules()
    adapters: Any = sys.modules.get("peft.peft_model")
    if adapters is not None and (adapters.PeftModel, "save_pretrained") not in _wrapped:
        _wrap(adapters.PeftModel, "save_pretrained", save_adapter)


def _wrap(cls: type, name: str, wrapper: Callable[..., Any]) -> None:
    wrap_method(cls, name, wrapper)
    _wrapped.append((cls, name))


# --- reading


def _get_config_dict(
    method: Callable[..., Any], cls: Any, *args: Any, **kwargs: Any
) -> tuple[dict[str, Any], dict[str, Any]]:
    found, rest = method(cls, *args, **kwargs)
    if KEY in str(found.get(GUARD_KEY)):  # the guard, also in other words
        del found[GUARD_KEY]
    return found, rest


def _from_pretrained(method: Callable[..., Any], cls: Any, *args: Any, **kwargs: Any) -> Any:
    """Load a network; an error if its gates and those in the file differ."""
    with_info = kwargs.pop("output_loading_info", False)
    model, info = method(cls, *args, output_loading_info=True, **kwargs)
    if homeless := sorted(filter(is_of_gate, info["unexpected_keys"])):
        raise ValueError(
            f"{len(homeless)} tensors of gates were saved for which this {cls.__name__} has no "
            f"place (such as {homeless[0]!r}): its config.json holds no record of gates that fits "
            "this class; load it as the class that was saved, or build the network, boost it as "
            "then and load its state dict"
        )
    if any(map(is_of_gate, info["missing_keys"])):
        warnings.warn(
            f"the file lacks gates of this {cls.__name__}, which start anew as ab.boost starts "
            "them",
            stacklevel=3,
        )
    return (model, info) if with_info else model


def _post_init(method: Callable[..., Any], model: Any, *args: Any, **kwargs: Any) -> Any:
    """Finish a network; remember the gates that its own __init__ has made.

    Those that a configuration records come later: `surgery.configured_gates` puts them on.
    """
    method(model, *args, **kwargs)
    if not (names := frozenset(attached(model))):
        return
    if record_in(model.config) is not None or not has_record(model.config.to_dict()):
        model.__dict__[OWN_GATES] = names  # and not those of a part with a configuration of its own

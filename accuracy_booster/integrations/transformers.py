"""Boosted networks in transformers: they are saved, loaded and rebuilt with their gates.

`save_pretrained` writes a record of the gates into config.json, and beside it a line that stops a
`from_pretrained` that knows nothing of gates. `from_pretrained` here reads both. The methods of
transformers that write, read and build are wrapped when the first gate of a process is made, or
when `register` is called. Networks without gates pass through them as before.
"""

from __future__ import annotations

import functools
import sys
import warnings
from collections.abc import Callable, Mapping
from typing import Any

from torch import nn

from accuracy_booster.blocks import Recalibrate
from accuracy_booster.integrations.transformers_saving import (
    BUILDS_GATES,
    GUARD_KEY,
    has_record,
    save_adapter,
    save_pretrained,
    to_json_file,
)
from accuracy_booster.surgery.attaching import attach_unnoted
from accuracy_booster.surgery.attention import replace_attention
from accuracy_booster.surgery.configurations import KEY, record_in
from accuracy_booster.surgery.configured_gates import check_channels
from accuracy_booster.surgery.gate_records import Record, parse_record
from accuracy_booster.surgery.gated import ATTRIBUTE, applied_gate
from accuracy_booster.surgery.listing import attached
from accuracy_booster.surgery.repairing import has_kept_gates, repair

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

    given = options.get("config", path)
    if isinstance(given, transformers.PreTrainedConfig):
        names = given.architectures or []
    else:
        hub = ("cache_dir", "force_download", "local_files_only", "revision", "subfolder", "token")
        given_hub = {key: options[key] for key in hub if key in options}
        found, _ = transformers.PreTrainedConfig.get_config_dict(given, **given_hub)
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

    if (PreTrainedModel, "post_init") not in _wrapped:
        _wrap(PreTrainedConfig, "to_json_file", to_json_file)
        _wrap(PreTrainedConfig, "get_config_dict", _get_config_dict)
        _wrap(PreTrainedModel, "save_pretrained", save_pretrained)
        _wrap(PreTrainedModel, "from_pretrained", _from_pretrained)
        _wrap(PreTrainedModel, "post_init", _post_init)
    adapters: Any = sys.modules.get("peft.peft_model")
    if adapters is not None and (adapters.PeftModel, "save_pretrained") not in _wrapped:
        _wrap(adapters.PeftModel, "save_pretrained", save_adapter)


def _wrap(cls: type, name: str, wrapper: Callable[..., Any]) -> None:
    """Replace a method by one that calls `wrapper(method, self or cls, ...)`."""
    found = cls.__dict__[name]
    method = found.__func__ if isinstance(found, classmethod) else found

    @functools.wraps(method)
    def wrapped(self: Any, *args: Any, **kwargs: Any) -> Any:
        return wrapper(method, self, *args, **kwargs)

    setattr(cls, name, classmethod(wrapped) if isinstance(found, classmethod) else wrapped)
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
    if homeless := sorted(filter(_of_a_gate, info["unexpected_keys"])):
        raise ValueError(
            f"{len(homeless)} tensors of gates were saved for which this {cls.__name__} has no "
            f"place (such as {homeless[0]!r}): its config.json holds no record of gates that fits "
            "this class; load it as the class that was saved, or build the network, boost it as "
            "then and load its state dict"
        )
    if missing := set(filter(_of_a_gate, info["missing_keys"])):
        _start_anew(model, missing)
    return (model, info) if with_info else model


def _of_a_gate(key: str) -> bool:
    return f".{ATTRIBUTE}." in f".{key}"


def _start_anew(model: nn.Module, missing: set[str]) -> None:
    """Give gates that a file does not hold their first values; transformers leaves them undefined.

    Raises:
        ValueError: if the file holds a part of a gate.
    """
    for name, gate in model.named_modules():
        keys = {f"{name}.{key}" for key in gate.state_dict()}
        if not isinstance(gate, Recalibrate) or not keys & missing:
            continue
        if not keys <= missing:
            raise ValueError(
                f"the file lacks {len(keys & missing)} of the {len(keys)} tensors of the gate "
                f"{name!r}, such as {min(keys & missing)!r}; save the network again"
            )
        size, layout = gate.spatial_size, gate.layout
        first = Recalibrate(gate.channels, gate.recipe, spatial_size=size, layout=layout)
        gate.load_state_dict(first.state_dict())
    warnings.warn(
        f"the file holds no gates, so those of this {type(model).__name__} start anew, as ab.boost "
        "starts them",
        stacklevel=4,
    )


# --- building


def _post_init(method: Callable[..., Any], model: Any, *args: Any, **kwargs: Any) -> Any:
    """Finish a network that was just built, and put on the gates that its configuration records.

    A network and its base (ResNetForImageClassification and its ResNetModel) share a configuration.
    The base is finished first and takes the gates if all of them are in it.
    """
    method(model, *args, **kwargs)
    if has_kept_gates(model):  # DETR has replaced the norms of its backbone
        repair(model)
    record = record_in(model.config)
    if record is None:
        if attached(model) and not has_record(model.config.to_dict()):
            model.__dict__[BUILDS_GATES] = True
        return
    if (fitting := _fitting(model, record)) is not None:
        try:
            _put_on(model, parse_record(fitting))
        except ValueError as e:
            raise ValueError(
                f"the configuration of this {type(model).__name__} records gates (key {KEY!r}) "
                f"that do not fit it: {e}; delete the key to build it without gates"
            ) from e


def _put_on(model: nn.Module, record: Record) -> None:
    """Put the gates of a record on, but for those that its base has already.

    Raises:
        ValueError: if one does not fit.
    """
    modules = dict(model.named_modules())
    sites = [(s, text) for s, text in record.sites if applied_gate(modules[s.name]) is None]
    for site, _ in sites:
        check_channels(modules, site)
    replace_attention(model, [site for site, _ in sites if site.name in record.replaced])
    for text, recipe in record.recipes.items():
        attach_unnoted(model, recipe, [site for site, used in sites if used == text])


def _fitting(model: Any, record: Mapping[str, Any]) -> dict[str, Any] | None:
    """A record with the names that its modules have in this network; None if one is missing."""
    modules = dict(model.named_modules())
    prefix = f"{model.base_model_prefix}."
    for rename in (str, lambda name: name.removeprefix(prefix)):
        if all(rename(site["name"]) in modules for site in record["sites"]):
            sites = [{**site, "name": rename(site["name"])} for site in record["sites"]]
            return {**record, "sites": sites, "replaced": [rename(n) for n in record["replaced"]]}
    return None

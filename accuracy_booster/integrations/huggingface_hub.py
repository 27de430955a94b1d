"""Boosted networks with the mixin of huggingface_hub, such as those of segmentation_models_pytorch.

The mixin writes the arguments of the constructor into config.json, builds the network from them and
loads its weights, by default without an error about weights for which the network has no place. So
`save_pretrained` writes the record of the gates beside the arguments, and `from_pretrained` puts
the gates on before it loads their weights. Networks without gates pass through as before.
"""

from __future__ import annotations

import json
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

from accuracy_booster.integrations.wrapping import wrap_method
from accuracy_booster.surgery.configurations import KEY
from accuracy_booster.surgery.gate_records import gate_record
from accuracy_booster.surgery.gated import is_of_gate
from accuracy_booster.surgery.gating import follow_rebuilt_modules
from accuracy_booster.surgery.listing import attached
from accuracy_booster.surgery.rebuilding import rebuild_gates
from accuracy_booster.surgery.repairing import repair
from accuracy_booster.surgery.state import state_of

# An option of `from_pretrained`, which the mixin takes from config.json too if the constructor has
# `**kwargs`. So a process that knows nothing of gates is told that it has no place for them.
GUARD = {"strict": True}
# Methods of the mixin that load a file; other versions of it may have other ones.
LOADERS = {"_load_as_safetensor", "_load_as_pickle"}
_wrapped: list[type] = []


def register() -> None:
    """Have `from_pretrained` of the mixin build gates, in this process.

    The first gate of a process does so too. Call it in a process that loads before it boosts.
    """
    from huggingface_hub.hub_mixin import ModelHubMixin, PyTorchModelHubMixin

    if not _wrapped:
        _wrapped.extend((ModelHubMixin, PyTorchModelHubMixin))
        wrap_method(ModelHubMixin, "save_pretrained", _save_pretrained)
        wrap_method(PyTorchModelHubMixin, "_from_pretrained", _from_pretrained)
        for name in LOADERS & vars(PyTorchModelHubMixin).keys():
            wrap_method(PyTorchModelHubMixin, name, _load)
        follow_rebuilt_modules()


def _save_pretrained(
    method: Callable[..., Any], model: Any, save_directory: Any, *args: Any, **kwargs: Any
) -> Any:
    """Save a network, and the record of its gates in config.json.

    Raises:
        ValueError: for a folded network, whose layers its constructor does not build.
    """
    report = state_of(model).fast_path
    if report is not None and report.kind == "folded":
        raise ValueError(
            f"this {type(model).__name__} is folded, and its constructor does not build such "
            "layers; save the network that it was folded from, and fold it after loading"
        )
    repair(model)
    result = method(model, save_directory, *args, **kwargs)
    file = Path(save_directory) / "config.json"
    before = json.loads(file.read_text(encoding="utf-8")) if file.is_file() else {}
    config = {key: value for key, value in before.items() if key != KEY}
    if attached(model):
        config = {**GUARD, **config, KEY: gate_record(model)}
    if config != before:
        file.write_text(json.dumps(config, sort_keys=True, indent=2), encoding="utf-8")
    return result


def _from_pretrained(method: Callable[..., Any], cls: Any, **kwargs: Any) -> Any:
    """Build a network without the key of our record, which is no argument of its constructor.

    Raises:
        RuntimeError: if this version of the mixin loads files in a way that we do not know.
    """
    record = kwargs.pop(KEY, None)
    model = method(cls, **kwargs)
    if record is not None and not attached(model):
        raise RuntimeError(
            f"the gates of this {cls.__name__} were not built: this version of huggingface_hub "
            "loads files in another way; build the network, put the gates on with "
            f"ab.rebuild_gates(network, config[{KEY!r}]) and load its state dict"
        )
    return model


def _load(
    method: Callable[..., Any], cls: Any, model: Any, model_file: Any, *args: Any, **kwargs: Any
) -> Any:
    """Put the gates of the configuration on a network, and load its weights."""
    file = Path(model_file).parent / "config.json"
    record = json.loads(file.read_text(encoding="utf-8")).get(KEY) if file.is_file() else None
    if not attached(model):
        if record is not None:
            rebuild_gates(model, record)
        elif names := _gates_in(model_file):
            warnings.warn(
                f"the file has weights of gates (such as {names[0]!r}) and its config.json no "
                f"record of them (key {KEY!r}), so this {cls.__name__} has no gates; boost it as "
                "then and load its state dict, and save it anew",
                stacklevel=4,
            )
    return method(cls, model, model_file, *args, **kwargs)


def _gates_in(file: Any) -> list[str]:
    """The names of tensors of gates in a file of safetensors."""
    if Path(file).suffix != ".safetensors":
        return []
    from safetensors import safe_open

    with safe_open(str(file), framework="pt") as opened:
        return [name for name in opened.keys() if is_of_gate(name)]  # noqa: SIM118

"""A run's settings as others may read them: no places on the machine that it was trained on.

`public_settings` are all that decide a result. `command` trains the network again.
"""

from __future__ import annotations

import os
import shlex
from dataclasses import fields
from pathlib import PurePath
from typing import Any

from accuracy_booster.data.choices import BUILT_IN
from accuracy_booster.data.timm_sources import is_timms
from accuracy_booster.models.own_networks import is_own
from accuracy_booster.progress import printable
from accuracy_booster.training.presets import PRESETS, settings_of
from accuracy_booster.training.train_config import TrainConfig

# settings that decide no result, or say where something is on one machine
PRIVATE = (
    *("output", "overwrite", "checkpoint_minutes", "bad_images", "log_with", "data_dir"),
    *("workers", "compile", "fuse", "device"),
)
YOUR_NETWORK = "YOUR_FILE.py:FUNCTION"


def is_place(data: str) -> bool:
    """Whether the data are a directory, and not a name that means the same everywhere."""
    return data not in BUILT_IN and not is_timms(data)


def data_name(config: TrainConfig) -> str:
    """What the data are called: their name, or the last part of their path."""
    return printable(config.data_name if is_place(config.data) else config.data)


def network_name(config: TrainConfig) -> str:
    """What the network is called; of a file of the caller's own without its folders."""
    name = config.model
    return printable(PurePath(name).name if is_own(name) and ":" in name else name)


def public_settings(config: TrainConfig) -> dict[str, Any]:
    """{name: plain value} of the settings that decide the result and are not None."""
    values = {f.name: getattr(config, f.name) for f in fields(config) if f.name not in PRIVATE}
    values |= {"model": network_name(config), "data": data_name(config)}
    if config.weights is not None:
        values["weights"] = _last_part(config.weights)
    return {
        name: list(value) if isinstance(value, tuple) else value
        for name, value in sorted(values.items(), key=lambda item: item[0] != "model")
        if value is not None
    }


def command(config: TrainConfig) -> str:
    """The command line that trains the network again, with the place of the data as a name.

    It names the settings that are not the preset's.
    """
    preset = config.preset if config.preset in PRESETS else None
    usual = TrainConfig(config.model, preset=preset)
    if preset is not None:
        usual = usual.change(settings_of(preset))
    words = ["accuracy-booster", "train"]
    words.append(YOUR_NETWORK if is_own(config.model) else config.model)
    words += ["--data", data_name(config), "--block", config.block]
    words += ["--preset", preset] if preset else []
    public = public_settings(config)
    for f in fields(config):
        name, value = f.name, getattr(config, f.name)
        if name in (*PRIVATE, "model", "data", "block", "preset") or value == getattr(usual, name):
            continue
        words += _option(name, public.get(name))
    if "--seed" not in words:
        words += ["--seed", str(config.seed)]
    return shlex.join(words)


def _option(name: str, value: Any) -> list[str]:
    if isinstance(value, bool):
        text = str(value).lower()
    elif isinstance(value, list):
        text = ",".join(map(str, value))
    else:
        text = "null" if value is None else str(value)
    return [f"--{name}={text}"] if text.startswith("-") else [f"--{name}", text]


def _last_part(path: str) -> str:
    return printable(os.path.basename(os.path.abspath(path)))

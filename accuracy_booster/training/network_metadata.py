"""What a run's network says of itself: how its images are made, and the names of its classes.

It is in the metadata of model.safetensors, and on a loaded network, under timm's names.
"""

# C channels, H W space, K classes

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from accuracy_booster.blocks import VERSION
from accuracy_booster.data.choices import SMALL
from accuracy_booster.data.cropping import default_crop_pct
from accuracy_booster.training.run_config import RunConfig
from accuracy_booster.training.train_config import TrainConfig

WHOLE = {"crop_pct": 1.0, "crop_mode": "squash"}  # timm's words for: resize, and crop nothing


def is_whole(config: TrainConfig, info: Mapping[str, Any]) -> bool:
    """Whether a run measured its images whole: small ones, which are not cropped."""
    known = info.get("whole")
    if known is None:  # of an older version, which did not store it
        return max(config.input_size[1:]) <= SMALL and config.augment != "resized_crop"
    return bool(known)


def preprocessing(config: TrainConfig, info: Mapping[str, Any]) -> dict[str, Any]:
    """How an image becomes the input of a run's network, as in timm's `pretrained_cfg`.

    Args:
        info: what run.json holds.
    """
    crop_pct = config.crop_pct or default_crop_pct(config.input_size[1:])
    crop = {"crop_pct": crop_pct, "crop_mode": config.crop_mode or "center"}
    return {
        "input_size": config.input_size,
        "mean": config.mean,
        "std": config.std,
        "interpolation": config.interpolation or "bilinear",
        **(WHOLE if is_whole(config, info) else crop),
    }


def pretrained_cfg(config: TrainConfig, info: Mapping[str, Any]) -> dict[str, Any]:
    """A run's network in the form of timm's `pretrained_cfg`."""
    return {
        **preprocessing(config, info),
        "num_classes": config.num_classes,
        "label_names": list(map(str, info["classes"])),
        "architecture": config.model,
    }


def network_metadata(config: RunConfig, info: Mapping[str, Any]) -> dict[str, str]:
    """The metadata of model.safetensors, all of them texts: numbers and lists are JSON.

    Nothing in it tells one repetition of a run from another.
    """
    about: dict[str, Any] = {
        "format": "pt",  # as transformers asks for
        "model": config.network,
        "block": config.block,
        "init": config.init,
        "block_version": VERSION,
        "classes": list(map(str, info["classes"])),
        "task": config.task,
    }
    if isinstance(config, TrainConfig):
        about |= {**preprocessing(config, info), "num_classes": config.num_classes}
    about |= {n: v for n in ("where", "skip") if (v := getattr(config, n, None)) is not None}
    return {k: v if isinstance(v, str) else json.dumps(v) for k, v in about.items()}

"""The presets: named settings from which a configuration starts.

Sources: He et al. 2015 (section 4.2) and 2016 for the CIFAR ResNets, Zagoruyko and Komodakis 2016
for the wide ones; the paper itself states no CIFAR schedule. ImageNet: "the same settings as CBAM"
(section 6.1), which are those of the ResNet-50 baseline. ShuffleNet: "the same settings as SENet",
whose paper trains its mobile networks with batches of 256 at a rate of 0.1 that falls by 10 when
the validation loss stays, for about 400 epochs. Section 6.1 excludes lowering the rate on a
plateau, so here it falls at fixed epochs. These epochs are our choice.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from accuracy_booster.data import BUILT_IN
from accuracy_booster.data.choices import SMALL
from accuracy_booster.data.cores import usable_cores
from accuracy_booster.errors import unknown
from accuracy_booster.training.train_config import TrainConfig

FINE_TUNE = "finetune"  # what networks with trained weights take

# The settings of each preset; all others are at TrainConfig's defaults.
PRESETS: dict[str, dict[str, Any]] = {
    "cifar_resnet": {},
    "cifar_resnet_deep": {"warmup_epochs": 1},  # from 110 layers on: first one epoch at 0.01
    "cifar_wrn": {
        "nesterov": True,
        "weight_decay": 5e-4,
        "milestones": (0.3, 0.6, 0.8),
        "gamma": 0.2,
    },
    "imagenet_resnet": {
        "epochs": 90,
        "batch_size": 256,
        "milestones": (1 / 3, 2 / 3),
        "augment": "resized_crop",
        "workers": 4,
    },
    "imagenet_shufflenet": {
        "epochs": 400,
        "batch_size": 256,
        "milestones": (0.3, 0.6, 0.9),
        "augment": "resized_crop",
        "workers": 4,
    },
    # for the 1437 built-in digits: minutes, not hours
    "digits": {"epochs": 10, "batch_size": 64, "schedule": "cosine"},
    # for a network that has trained weights: they are changed a little (docs/training.md says what
    # was measured)
    FINE_TUNE: {
        "epochs": 10,
        "batch_size": 32,
        "lr": 0.005,
        "norm_weight_decay": 0.0,
        "schedule": "cosine",
        "warmup_steps": 100,
        "warmup_lr": 1e-4,
        "workers": 4,  # of images that do not fit into memory
    },
}


def resolve(model: str, *, trained: bool = False, **given: Any) -> TrainConfig:
    """The configuration of a model: a preset, and `given` over it.

    The preset is the one that `given` names, or else the one that fits the model, the data, and
    what the network starts from.

    Args:
        trained: the network comes with trained weights, as a module that the caller gives does.

    Raises:
        ValueError: for an unknown preset or option, or a value out of range.
    """
    data = given.get("data", TrainConfig.data)
    started = trained or starts_trained(given)
    preset = given.get("preset") or default_preset(model, data, trained=started)
    if preset not in PRESETS:
        raise unknown("preset", preset, PRESETS)
    return TrainConfig(model, preset=preset).change(
        {**settings_of(preset), **given, "preset": preset}
    )


def settings_of(preset: str) -> dict[str, Any]:
    """The settings of a preset on this machine: no more loading processes than there are cores."""
    found = dict(PRESETS[preset])
    if "workers" in found:
        found["workers"] = min(found["workers"], usable_cores())
    return found


def starts_trained(given: Mapping[str, Any]) -> bool:
    """Whether options ask for a network that starts from trained weights."""
    return bool(given.get("pretrained") or given.get("weights"))


def default_preset(model: str, data: str, *, trained: bool = False) -> str:
    """The preset that is taken where none is named."""
    return FINE_TUNE if trained else preset_from_scratch(model, data)


def preset_from_scratch(model: str, data: str) -> str:
    """The preset of a network's family, or the short one of the built-in digits."""
    if data == "digits":
        return "digits"
    from accuracy_booster.models import MODELS  # imports torch, and `--help` lists the presets

    name = model.rpartition("/")[2]
    row = MODELS.get(model)
    large = row.input_size[1] > SMALL if row else "/" in model or ":" in model
    if large and data not in BUILT_IN:
        return "imagenet_shufflenet" if name.startswith("shufflenet") else "imagenet_resnet"
    if name.startswith("wrn"):
        return "cifar_wrn"
    depth = re.match(r"resnet(\d{1,9})", name)
    return "cifar_resnet_deep" if depth and int(depth[1]) >= 110 else "cifar_resnet"


def told(config: TrainConfig) -> str:
    """A line on the preset that was taken where none was named, and why."""
    if config.preset == FINE_TUNE:
        other = preset_from_scratch(config.model, config.data)
        why = f"the network starts from trained weights (--preset {other} trains as from random)"
    elif config.data == "digits":
        why = "the data are the built-in digits"
    else:
        why = f"the model is {config.model}"
    plural = "s"[: config.epochs > 1]
    return (
        f"preset={config.preset}: {why}; {config.epochs} epoch{plural}, batches of "
        f"{config.batch_size}, {config.optimizer}, learning rate {config.lr:g}"
    )

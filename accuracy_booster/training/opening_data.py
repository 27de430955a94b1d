"""Open the data that a configuration names, and complete the configuration from them."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

from accuracy_booster.data import Data, load_data, sources
from accuracy_booster.data.dataset_source import dataset_source
from accuracy_booster.models.preprocessing import preprocessing_of, pretrained_preprocessing
from accuracy_booster.progress import note
from accuracy_booster.training.initial_weights import decide_start, run_of
from accuracy_booster.training.network_building import with_own_gates
from accuracy_booster.training.own_objects import NOTHING, OwnObjects
from accuracy_booster.training.train_config import TrainConfig


def open_data(config: TrainConfig, given: OwnObjects = NOTHING, **more: Any) -> Data:
    """The data that a configuration names, or that the caller gives.

    Args:
        given: the caller's objects, among which may be data sets.
        more: further arguments of `load_data`.
    """
    names = (
        *("batch_size", "eval_batch_size", "image_size", "augment", "validation", "mean", "std"),
        *("seed", "workers", "data_dir", "image_column", "label_column"),
        *("interpolation", "crop_pct", "crop_mode"),
        *("in_chans", "auto_augment", "sampling"),
    )
    data: Any = config.data
    if given.data is not None:
        columns = {name: getattr(config, name) for name in ("image_column", "label_column")}
        data = dataset_source(given.data, given.data_name, **columns)
    return load_data(data, **{**{name: getattr(config, name) for name in names}, **more})


def open_data_of_new_run(config: TrainConfig, given: OwnObjects = NOTHING) -> Data:
    """The data of a new run, whose images are made as those that its weights were trained on.

    That holds for a pretrained network, for a module of timm's that the caller gives, and for the
    mean and standard deviation of a run that `weights` names. What is used is printed in one line;
    `fill_in` puts it into the configuration.
    """
    if config.weights is not None and (found := run_of(config.weights)) is not None:
        begun = found[1]
        data = open_data(config, given, trained_on=(begun.mean, begun.std))
        note(f"images as {config.weights} was trained on: mean {data.mean}, std {data.std}")
        return data
    size = config.image_size if isinstance(config.image_size, tuple) else None
    own = pretrained_preprocessing(config.model, size) if config.pretrained else None
    if given.network is not None and given.network.module is not None:
        own = preprocessing_of(given.network.module, size)
    if own is None:
        return open_data(config, given)
    names = ("image_size", "mean", "std", "interpolation", "crop_pct", "crop_mode")
    asked = {name: getattr(config, name) for name in names}
    used = replace(own, **{name: value for name, value in asked.items() if value is not None})
    by_itself = "the pretrained_cfg of the network says"
    how = by_itself if given.network is not None else f"{config.model} was pretrained on"
    note(f"images as {how}: {used}")
    return open_data(config, given, own=own)


def with_absolute_paths(config: TrainConfig, given: OwnObjects = NOTHING) -> TrainConfig:
    """The configuration with absolute paths of its data: they hold in every working directory."""
    root = config.data_dir and os.path.abspath(Path(config.data_dir).expanduser())
    place = config.data if given.data is not None else sources.full_name(config.data)
    return config.change({"data": place, "data_dir": root})


def fill_in(
    config: TrainConfig,
    data: Data,
    given: OwnObjects = NOTHING,
    say: Callable[[str], None] = note,
) -> TrainConfig:
    """The configuration with every value that the data decide, so that it repeats the run.

    Args:
        say: prints a line on how the gates start.

    Raises:
        ValueError: for classes or channels that do not fit the configuration, or weights that
            cannot be read.
    """
    data.check_trainable()
    classes = len(data.classes)
    config = with_own_gates(config, given, config.num_classes or classes, data.in_chans)
    config = with_absolute_paths(decide_start(config, trained=given.trained, say=say), given)
    if config.num_classes is not None and classes > config.num_classes:
        raise ValueError(
            f"{data.name} has {classes} classes, more than num_classes={config.num_classes}"
        )
    if config.in_chans not in (None, data.in_chans):
        raise ValueError(f"in_chans={config.in_chans}, but {data.name} has {data.in_chans}")
    batch_size = data.loaders["train"].batch_size  # no larger than the training set
    decided = {
        "num_classes": config.num_classes or classes,
        "in_chans": data.in_chans,
        "image_size": data.image_size,
        "mean": data.mean,
        "std": data.std,
        "augment": data.augment,
        "interpolation": data.interpolation,
        "crop_pct": data.crop_pct,
        "crop_mode": data.crop_mode,
        "batch_size": batch_size,
        # where the training set is smaller than a batch, it is taken in one part
        "accumulate": config.accumulate if batch_size == config.batch_size else 1,
    }
    return config.change(decided)

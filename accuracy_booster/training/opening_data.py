"""Open the data that a configuration names, and complete the configuration from them."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path
from typing import Any

from accuracy_booster.data import Data, load_data, sources
from accuracy_booster.models.preprocessing import pretrained_preprocessing
from accuracy_booster.progress import note
from accuracy_booster.training.initial_weights import decide_start, run_of
from accuracy_booster.training.train_config import TrainConfig


def open_data(config: TrainConfig, **more: Any) -> Data:
    """The data that a configuration names.

    Args:
        more: further arguments of `load_data`.
    """
    names = (
        *("batch_size", "eval_batch_size", "image_size", "augment", "validation", "mean", "std"),
        *("seed", "workers", "data_dir", "image_column", "label_column"),
        *("interpolation", "crop_pct", "crop_mode"),
        *("in_chans", "auto_augment", "sampling"),
    )
    return load_data(config.data, **{**{name: getattr(config, name) for name in names}, **more})


def open_data_of_new_run(config: TrainConfig) -> Data:
    """The data of a new run, whose images are made as those that its weights were trained on.

    That holds for a pretrained network, and for the mean and standard deviation of a run that
    `weights` names. What is used is printed in one line; `fill_in` puts it into the configuration.
    """
    if config.weights is not None and (found := run_of(config.weights)) is not None:
        begun = found[1]
        mean, std = config.mean or begun.mean, config.std or begun.std
        note(f"images as {config.weights} was trained on: mean {mean}, std {std}")
        return open_data(config, mean=mean, std=std)
    size = config.image_size if isinstance(config.image_size, tuple) else None
    own = pretrained_preprocessing(config.model, size) if config.pretrained else None
    if own is None:
        return open_data(config)
    names = ("image_size", "mean", "std", "interpolation", "crop_pct", "crop_mode")
    given = {name: getattr(config, name) for name in names}
    used = replace(own, **{name: value for name, value in given.items() if value is not None})
    note(f"images as {config.model} was pretrained on: {used}")
    return open_data(config, own=own)


def with_absolute_paths(config: TrainConfig) -> TrainConfig:
    """The configuration with absolute paths of its data: they hold in every working directory."""
    root = config.data_dir and os.path.abspath(Path(config.data_dir).expanduser())
    return config.change({"data": sources.full_name(config.data), "data_dir": root})


def fill_in(config: TrainConfig, data: Data) -> TrainConfig:
    """The configuration with every value that the data decide, so that it repeats the run.

    Raises:
        ValueError: for classes or channels that do not fit the configuration, or weights that
            cannot be read.
    """
    data.check_trainable()
    config = with_absolute_paths(decide_start(config))
    classes = len(data.classes)
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

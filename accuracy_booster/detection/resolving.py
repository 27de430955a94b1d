"""Resolves a `DetectConfig`: from what a user gives to a configuration that repeats the run.

`resolve` takes the arguments of `train`. `fill_in` then decides what depends on the data and on the
first weights.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from accuracy_booster.data.normalisation import IMAGENET_MEAN, IMAGENET_STD
from accuracy_booster.detection.config import LR_PER_IMAGE, DetectConfig
from accuracy_booster.detection.loaders import DetectionData
from accuracy_booster.models.own_networks import is_own
from accuracy_booster.models.preprocessing import pretrained_preprocessing
from accuracy_booster.models.registry import is_model
from accuracy_booster.progress import note
from accuracy_booster.training.initial_weights import decide_start, run_of
from accuracy_booster.training.run_directory import Run
from accuracy_booster.training.train_config import TrainConfig

RUN_KINDS = (TrainConfig, DetectConfig)  # the configurations of runs that a detector may start from


def resolve(backbone: str | DetectConfig | None = None, **given: Any) -> DetectConfig:
    """The configuration that arguments of `train` describe, before the data are read.

    Where the training starts from a run, the network, block, head and anchors are that run's.

    Raises:
        ValueError: for an unknown option, a value out of range, or a missing backbone.
    """
    if isinstance(backbone, DetectConfig):
        return backbone.change(given)
    if backbone is not None and not isinstance(backbone, (str, os.PathLike)):
        raise ValueError(
            f"expected a network's name, a run's directory or a DetectConfig, got "
            f"{type(backbone).__name__}; a run makes its network itself, so that it can make it "
            "again; ab.detection.faster_rcnn takes a module"
        )
    name = None if backbone is None else str(backbone)
    if name is not None and not is_model(name) and os.path.isdir(Path(name).expanduser()):
        if given.get("weights") is not None:
            raise ValueError(
                f"backbone={name!r} is a run, whose weights are taken; leave weights out"
            )
        Run.open(Path(name).expanduser())  # raises if there is no finished run of classification
        name, given["weights"] = None, name
    if name is None:
        found = None if given.get("weights") is None else run_of(str(given["weights"]), RUN_KINDS)
        if found is None:
            raise ValueError("name a backbone, or the run of a network to start from")
        _, begun = found
        name = begun.backbone if isinstance(begun, DetectConfig) else begun.model
        given.setdefault("block", begun.block)
        if isinstance(begun, DetectConfig):
            given.setdefault("head", begun.head)
            given.setdefault("anchor_sizes", begun.anchor_sizes)
    _check_run_fits(given.get("weights"))
    DetectConfig.check_names(given)
    rate = LR_PER_IMAGE * given.get("batch_size", DetectConfig.batch_size)
    return DetectConfig(name, **{"lr": rate, **given})


def _check_run_fits(weights: str | None) -> None:
    """Raise ValueError if `weights` is a run whose network cannot be a detector's backbone."""
    found = None if weights is None else run_of(str(weights), (TrainConfig,))
    if found is None:
        return
    begun = found[1]
    if is_own(begun.model):
        raise ValueError(
            f"the run in {weights} is of your own code ({begun.model}), and detect train makes its "
            "network by name; in Python: ab.detection.faster_rcnn(ab.load_run(RUN, model=...))"
        )
    if begun.in_chans not in (None, 3):
        raise ValueError(
            f"the network in {weights} takes images of {begun.in_chans} channel"
            f"{'s'[: begun.in_chans > 1]}, and a detector's images have 3; train one on colour "
            "images"
        )
    if begun.block != "none" and (begun.where, begun.skip) != ("residual", None):
        skip = "" if begun.skip is None else f", skip={begun.skip!r}"
        raise ValueError(
            f"the run in {weights} has its gates at where={begun.where!r}{skip}, and detect train "
            "puts them at the ends of all residual branches; train one so, or in Python: "
            "ab.detection.faster_rcnn(RUN)"
        )


def with_absolute_paths(config: DetectConfig) -> DetectConfig:
    """The configuration with absolute paths of the data."""
    given = {name: getattr(config, name) for name in config.places}
    return config.change(
        {n: os.path.abspath(Path(p).expanduser()) for n, p in given.items() if p is not None}
    )


def fill_in(config: DetectConfig, data: DetectionData) -> DetectConfig:
    """The configuration with everything decided that depends on the data and the first weights.

    With the filled-in configuration a training repeats the run exactly.

    Raises:
        ValueError: for a number of classes that is not the data's, more missing images than
            `bad_images` allows, or weights that cannot be read.
    """
    data.check_trainable()
    if (count := len(data.missing)) > config.bad_images:
        raise ValueError(
            f"{count:,} image files of {data.name} are not there, more than "
            f"bad_images={config.bad_images}, the first {data.missing[0]}; put them there, or "
            "allow more"
        )
    config = with_absolute_paths(decide_start(config, RUN_KINDS))
    classes = len(data.classes)
    if config.num_classes not in (None, classes):
        raise ValueError(f"num_classes={config.num_classes}, but {data.name} has {classes}")
    trained = config.pretrained or config.weights is not None
    mean, std = _preprocessing(config)
    batch = data.loaders["train"].batch_size  # at most the number of training images
    rate = config.lr
    if batch < config.batch_size:
        if rate == LR_PER_IMAGE * config.batch_size:  # the default, which depends on the batch
            rate = LR_PER_IMAGE * batch
        note(f"batch_size={batch}, not {config.batch_size}: there are no more training images")
    norms, layers = config.norms, config.trainable_layers
    if norms == "auto":
        norms = "frozen" if trained else "normal"
    if layers is None:
        layers = 3 if trained else 5
    config = config.change(
        {
            **{"num_classes": classes, "norms": norms, "trainable_layers": layers},
            "image_mean": config.image_mean or mean,
            "image_std": config.image_std or std,
            **{"batch_size": batch, "lr": rate},
            "accumulate": config.accumulate if batch == config.batch_size else 1,
        }
    )
    if config.norms == "frozen" and not trained:
        note(
            "norms=frozen, but the backbone starts from random weights: the running statistics of "
            "its norms stay 0 and 1; norms=normal learns them"
        )
    return config


def _preprocessing(config: DetectConfig) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """The mean and standard deviation of pixels that the backbone's weights were trained with."""
    found = None if config.weights is None else run_of(config.weights, RUN_KINDS)
    if found is not None:
        begun = found[1]
        if isinstance(begun, DetectConfig):
            return begun.image_mean or IMAGENET_MEAN, begun.image_std or IMAGENET_STD
        return begun.mean or IMAGENET_MEAN, begun.std or IMAGENET_STD
    own = pretrained_preprocessing(config.backbone) if config.pretrained else None
    return (IMAGENET_MEAN, IMAGENET_STD) if own is None else (own.mean, own.std)

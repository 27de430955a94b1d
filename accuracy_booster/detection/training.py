"""Train a detector, and open a trained one."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from torch import nn

from accuracy_booster.detection.config import LR_PER_IMAGE, DetectConfig
from accuracy_booster.detection.task import KINDS, Detection, build
from accuracy_booster.models.registry import is_model
from accuracy_booster.training.initial_weights import run_of
from accuracy_booster.training.run_directory import Run
from accuracy_booster.training.run_files import WEIGHTS
from accuracy_booster.training.starting_and_resuming import resume_run, start_run
from accuracy_booster.training.train_result import TrainResult


def train(
    backbone: str | DetectConfig | None = None,
    *,
    resume: str | Path | None = None,
    **options: Any,
) -> TrainResult:
    """Train Faster R-CNN with a boosted or plain backbone, and write a run's directory.

    Args:
        backbone: the classification network's name, the directory of a finished run of
            `ab.train`, whose network, block and weights are taken, or a whole `DetectConfig`. With
            `weights` of a run it may be left out.
        resume: the directory of a run to go on with, as `ab.train` does.
        options: any field of `DetectConfig`: `data`, `block`, `epochs`, `output`, ... The learning
            rate is by default 0.00125 for each image of a step.

    Returns:
        The last epoch's `DetectionMetrics` on the validation set (`.test`), the learning curve,
        and where the run is.

    Raises:
        ValueError: for anything in the configuration or the data that is unknown, out of range, or
            does not fit. Nothing is written then.
        TrainingStopped: where training cannot go on; the last checkpoint is intact.
        TrainingInterrupted: after SIGTERM or SIGINT; it can be resumed.
    """
    if resume is not None:
        return resume_run(Detection, resume, network_named=backbone is not None, **options)
    return start_run(Detection, resolve(backbone, **options))


def resolve(backbone: str | DetectConfig | None = None, **given: Any) -> DetectConfig:
    """The configuration of what is given, with what a run that it starts from says of itself.

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
        Run.open(Path(name).expanduser())  # tells what is wrong with it
        name, given["weights"] = None, name
    if name is None:
        found = None if given.get("weights") is None else run_of(str(given["weights"]), KINDS)
        if found is None:
            raise ValueError("name a backbone, or the run of a network to start from")
        _, begun = found
        name = begun.backbone if isinstance(begun, DetectConfig) else begun.model
        given.setdefault("block", begun.block)
        if isinstance(begun, DetectConfig):
            given.setdefault("head", begun.head)
            given.setdefault("anchor_sizes", begun.anchor_sizes)
    DetectConfig.check_names(given)
    rate = LR_PER_IMAGE * given.get("batch_size", DetectConfig.batch_size)
    return DetectConfig(name, **{"lr": rate, **given})


def load(run: str | Path) -> nn.Module:
    """The trained detector of a finished run of `detect train`, in eval mode, on the CPU.

    It is a torchvision FasterRCNN: a list of images, float [3, H, W] in 0..1, gives a list of
    {boxes [N, 4], labels [N], scores [N]}. `classes` of it are the names of the labels from 1 on.

    Raises:
        ValueError: for a directory without such a run, or damaged weights.
    """
    opened, config = Run.open(Path(run), kind=DetectConfig)
    return load_detector(opened, config)


def load_detector(run: Run, config: DetectConfig) -> nn.Module:
    """The same for a run that is open."""
    detector: Any = build(config, filled=True)
    try:
        detector.load_state_dict(run.weights())
    except (RuntimeError, ValueError, OSError) as e:
        reason = " ".join(str(e).split())[:300]
        raise ValueError(f"{run.path / WEIGHTS} does not load: {reason}") from e
    detector.classes = tuple(run.info["classes"])
    return detector.eval()

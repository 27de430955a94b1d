"""Trains a detector, and loads a trained one: `ab.detection.train` and `load`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from accuracy_booster.detection.building import build_detector
from accuracy_booster.detection.config import DetectConfig
from accuracy_booster.detection.detector import Detector
from accuracy_booster.detection.resolving import resolve
from accuracy_booster.detection.task import Detection
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
    """Train Faster R-CNN, with or without gates in its backbone, and write a run's directory.

    Args:
        backbone: the name of the classification network; or the directory of a finished run of
            `ab.train`, whose network, block and weights are taken; or a whole `DetectConfig`. It
            may be left out where `weights` is a run.
        resume: the directory of a run to continue, as in `ab.train`.
        options: any field of `DetectConfig`: `data`, `block`, `epochs`, `output`, ... The learning
            rate is by default 0.00125 for each image of a step.

    Returns:
        The last epoch's `DetectionMetrics` on the validation set (`.test`), the learning curve,
        and the run's directory.

    Raises:
        ValueError: for anything in the configuration or the data that is unknown, out of range, or
            does not fit together. Nothing is written then.
        TrainingStopped: if training cannot continue; the last checkpoint is intact.
        TrainingInterrupted: after SIGTERM or SIGINT; the run can be resumed.
    """
    if resume is not None:
        return resume_run(Detection, resume, network_named=backbone is not None, **options)
    return start_run(Detection, resolve(backbone, **options))


def load(run: str | Path) -> Detector:
    """The trained detector of a finished run of `detect train`, in eval mode, on the CPU.

    It is a torchvision FasterRCNN: from a list of images, float [3, H, W] in 0..1, it makes a list
    of {boxes [N, 4], labels [N], scores [N]}. Its `classes` are the names of the labels from 1 on.

    Raises:
        ValueError: for a directory without such a run, or damaged weights.
    """
    opened, config = Run.open(Path(run), kind=DetectConfig)
    return load_detector(opened, config)


def load_detector(run: Run, config: DetectConfig) -> Detector:
    """The trained detector of an opened run, in eval mode, on the CPU.

    Args:
        config: the run's configuration, whose options of detection may be changed.
    """
    detector = build_detector(config, filled=True)
    try:
        detector.load_state_dict(run.weights())
    except (RuntimeError, ValueError, OSError) as e:
        reason = " ".join(str(e).split())[:300]
        raise ValueError(f"{run.path / WEIGHTS} does not load: {reason}") from e
    detector.classes = tuple(run.info["classes"])
    return detector.eval()

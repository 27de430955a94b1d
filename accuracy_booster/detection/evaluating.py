"""`ab.detection.evaluate`: measures a detector on a data set in COCO's format."""

from __future__ import annotations

import json
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from torch import nn

from accuracy_booster.detection.building import open_data
from accuracy_booster.detection.config import MEASURED, PATH_FIELDS, DetectConfig
from accuracy_booster.detection.loaders import NAMES
from accuracy_booster.detection.measuring import measure
from accuracy_booster.detection.metrics import DetectionMetrics
from accuracy_booster.detection.training import load_detector
from accuracy_booster.errors import unknown
from accuracy_booster.files import write
from accuracy_booster.progress import note
from accuracy_booster.training.accelerator import make_accelerator
from accuracy_booster.training.evaluation import measure_shown
from accuracy_booster.training.processes import check_processes_agree
from accuracy_booster.training.reopening_data import what_changed
from accuracy_booster.training.run_directory import Run
from accuracy_booster.training.task import OnBatch


def evaluate(
    model: str | Path | nn.Module,
    data: str | Path | None = None,
    *,
    split: str = "val",
    classes: Sequence[str] | None = None,
    results: str | Path | None = None,
    **options: Any,
) -> DetectionMetrics:
    """COCO's 12 numbers of a finished run, or of any detector, on a data set.

    Args:
        model: a run's directory, or a module as torchvision's detectors: it takes a list of images,
            float [3, H, W] in 0..1, and gives a list of {boxes, labels, scores}.
        data: a directory in COCO's format. By default that of the run's training; a warning says
            if it was changed since.
        split: "val"; or "train", the images that a training uses, without augmentation.
        classes: the names of a module's labels from 1 on. By default those of the data, in the
            order of their COCO ids. A run knows its own.
        results: a JSON file that receives the detections in COCO's format of results.
        options: `eval_batch_size`, `device`, `precision`, `workers`, `bad_images`,
            `bad_annotations`, `train_images` and the other paths; for a run also `min_size`,
            `max_size`, `box_score_thresh`, `box_detections_per_img`. By default the run's own.

    Raises:
        ValueError: for a directory without a finished run, an unknown option, or data that do not
            fit the detector.
        TrainingStopped: if more images cannot be read than `bad_images` allows.
    """
    if split not in ("val", "train"):
        raise ValueError(
            f"split={split!r} must be 'val' or 'train'; for other images give val_images and "
            "val_annotations"
        )
    for name in options:
        if name not in MEASURED:
            raise unknown("option", name, MEASURED)
    run: Run | None = None
    if isinstance(model, nn.Module):
        if data is None:
            raise ValueError("which data? a module does not know; pass data=...")
        network, config = model, DetectConfig("module", data=str(data), block="none")
    else:
        if classes is not None:
            raise ValueError("classes=... is for a module; a run knows the names of its classes")
        run, config = Run.open(Path(model), kind=DetectConfig)
        classes = run.info["classes"]
        if data is not None:  # the paths of the run belong to its own data
            config = config.change({"data": str(data), **dict.fromkeys(PATH_FIELDS)})
    config = config.change(options)
    accelerator = make_accelerator(config)
    name = NAMES[split]
    opened = open_data(
        config,
        splits=(split,),
        training=False,
        classes=classes,
    )
    check_processes_agree(accelerator, config, opened)
    for line in opened.notes:
        note(line)
    if run is not None:
        network = load_detector(run, config)
        if data is None and (changed := what_changed(run, config, opened)):
            warnings.warn(changed, stacklevel=2)
    network.to(accelerator.device)
    loader, most = opened.loaders[name], config.box_detections_per_img
    found: list[dict[str, Any]] = []

    def measured(on_batch: OnBatch) -> DetectionMetrics:
        given = network, loader, opened, name, accelerator, on_batch
        return measure(*given, max_detections=most, results=found)

    metrics = measure_shown(measured, opened, loader, config.bad_images)
    if results is not None and accelerator.is_main_process:
        write(Path(results), json.dumps(found).encode())
    return metrics

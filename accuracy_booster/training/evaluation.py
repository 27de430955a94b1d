"""`evaluate`: measure a finished run, or any module, on a data set."""

# C channels, H W space

from __future__ import annotations

import copy
import warnings
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import nn

from accuracy_booster.data.batches import Loader
from accuracy_booster.data.worker_errors import worker_faults
from accuracy_booster.errors import CannotWrite
from accuracy_booster.progress import bars
from accuracy_booster.training.file_network import FileNetwork
from accuracy_booster.training.measuring import Evaluation, measure
from accuracy_booster.training.opening_to_measure import Opened, open_measured
from accuracy_booster.training.task import OnBatch, TrainingData
from accuracy_booster.training.train_result import TrainResult
from accuracy_booster.training.unreadable_images import check_readable

Measure = TypeVar("Measure")  # the metrics of a task


def evaluate(
    run: str | Path | nn.Module | TrainResult | None = None,
    data: Any = None,
    *,
    model: Any = None,
    split: str = "test",
    fold: bool = False,
    classes: Sequence[str] | None = None,
    report: str | Path | None = None,
    **options: Any,
) -> Evaluation:
    """Top-1 and top-5 of a finished run, or of any module, on a data set; also class by class.

    Args:
        run: a run's directory, what `ab.train` returned for it, or a module that maps images
            [N, C, H, W] to logits, or an exported file, which runs in its own runtime. How its
            images are made is printed.
        data: a name, a path or data sets as for `ab.train`; by default, for a run, what it was
            trained on. A warning says if these data have changed since. One data set is measured
            whole, unless it is the one that the run was trained on and held a share of out.
        model: the network itself, if the run trained a network of your own: as for `ab.train`.
        split: "test", "train" (measured without augmentation), or "validation" (the data's own, or
            the share that the run held out).
        fold: measure the network as `ab.fold` makes it for inference.
        classes: of a module, the names of its outputs in their order; the data's class names are
            looked up among them. ImageNet's need not be given, nor those of a network that
            `ab.load_run` gave. A run knows its own.
        report: an HTML file that shows the result: classes, confusion, mistakes with their images.
            A warning says if it cannot be written.
        options: `image_size`, `mean`, `std`, `interpolation`, `crop_pct`, `crop_mode`,
            `eval_batch_size`, `device`, `precision`, `workers`, `data_dir`, `image_column`,
            `label_column`, `bad_images`, `validation`: by default the run's own; for a module what
            its `pretrained_cfg` (of timm) says, else the defaults of `ab.train`.

    Returns:
        `top1`, `top5`, `loss` and `images`; `by_class`, the accuracy of each class, and what it was
        most often taken for; `confusion`, int64 [K, K] for K classes.

    Raises:
        ValueError: for a directory without a finished run, an unknown option, or data that do not
            fit the network: among them class names that tell no outputs.
    """
    if run is None:
        run, model = model, None  # evaluate(model=module)
    opened = open_measured(run, data, split=split, model=model, classes=classes, **options)
    network, loaded = opened.network, opened.data
    if fold:
        if isinstance(network, FileNetwork):
            raise ValueError(f"fold=True: {run} was folded when it was exported; leave fold out")
        from accuracy_booster.fastpath import fold as folded

        channels, (height, width) = loaded.in_chans, loaded.image_size
        example = torch.zeros(opened.loader.batch_size, channels, height, width)
        network = folded(copy.deepcopy(network).eval(), example=example)
    measured = measure_opened(opened, network)
    if report is None or not opened.accelerator.is_main_process:
        return measured
    return _with_report(Path(report), measured, opened, folded=fold)


def _with_report(path: Path, measured: Evaluation, opened: Opened, *, folded: bool) -> Evaluation:
    """Write the report. Where that fails, a warning says so: the measurement is not lost."""
    from accuracy_booster.training.run_report import write_run_report

    run, network = opened.run, type(opened.network).__name__
    try:
        write_run_report(
            path,
            measured,
            opened.loader.dataset.images,
            config=opened.config,
            split=opened.split,
            info=None if run is None else run.info,
            history=() if run is None else run.history(),
            title=None if run is not None else f"{network} on {opened.data.name}",
            folded=folded,
        )
    except (CannotWrite, ValueError) as e:  # ValueError: metrics.csv is damaged
        warnings.warn(f"no report: {e}", stacklevel=3)
        return measured
    return replace(measured, report=path)


def measure_opened(opened: Opened, network: nn.Module | None = None) -> Evaluation:
    """Measure the opened network, or another one in its place, on the split that was opened.

    Raises:
        TrainingStopped: if more images cannot be read than `bad_images` allows.
    """
    loaded, loader = opened.data, opened.loader
    network = opened.network if network is None else network

    def measured(on_batch: OnBatch) -> Evaluation:
        return measure(network, loader, loaded, opened.accelerator, on_batch, opened.places)

    return measure_shown(measured, loaded, loader, opened.config.bad_images)


def measure_shown(
    measured: Callable[[OnBatch], Measure], data: TrainingData, loader: Loader, bad_images: int
) -> Measure:
    """What `measured` returns; meanwhile a progress bar is shown, and each unreadable image told.

    Args:
        measured: measures on the loader, and calls the function that it is given after each batch.
        bad_images: how many images may be unreadable.

    Raises:
        TrainingStopped: if more images cannot be read than `bad_images` allows.
    """
    unreadable = list(data.unreadable)
    with bars() as progress, worker_faults():
        task = progress.add_task(f"Measuring {data.name}", total=len(loader), note="")

        def on_batch(batch: Any) -> None:
            progress.advance(task)
            unreadable.extend(batch.unreadable.values())
            check_readable(unreadable, bad_images)

        metrics = measured(on_batch)
    for reason in unreadable:
        warnings.warn(f"left out, {reason}", stacklevel=2)
    return metrics

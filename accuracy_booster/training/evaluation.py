"""Measure a network: top-1 and top-5, exactly once per image."""

# N batch, C channels, H W space

from __future__ import annotations

import copy
import warnings
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import torch
import torch.nn.functional as F
from torch import nn

from accuracy_booster.data import Data, normalise
from accuracy_booster.data.batches import Batch, Loader
from accuracy_booster.data.worker_errors import worker_faults
from accuracy_booster.progress import bars
from accuracy_booster.surgery.modes import in_eval_mode
from accuracy_booster.training.network_outputs import split_outputs
from accuracy_booster.training.open_to_measure import Opened, check_readable, open_measured
from accuracy_booster.training.task import OnBatch, TrainingData

if TYPE_CHECKING:
    from accelerate import Accelerator

Measure = TypeVar("Measure")  # the metrics of a task


@dataclass(frozen=True)
class Metrics:
    """Accuracies in % and the mean cross-entropy over `images` images, each counted once.

    With fewer than 5 classes top5 is over all of them.
    """

    top1: float
    top5: float
    loss: float
    images: int

    @property
    def top1_error(self) -> float:
        return 100 - self.top1

    @property
    def top5_error(self) -> float:
        return 100 - self.top5

    def to_dict(self) -> dict[str, float]:
        return {**asdict(self), "top1_error": self.top1_error, "top5_error": self.top5_error}


@torch.no_grad()
def measure(
    model: nn.Module,
    loader: Loader,
    data: Data,
    accelerator: Accelerator,
    on_batch: Callable[[Batch], None] = lambda batch: None,
    places: Callable[[int], Sequence[int] | None] = lambda outputs: None,
) -> Metrics:
    """Run `loader` through the model in eval mode; the processes share the images and the result.

    Every image counts once, also where the last batch is ragged or the processes get unequal
    numbers. Sums are exact: hits are whole numbers, losses are added in float64. `places` is asked
    for the output of each class, given how many outputs there are; None is their order.
    """
    if accelerator.num_processes > 1:
        share_buffers(model)
    with in_eval_mode(model):
        return _measure(model, loader, data, accelerator, on_batch, places)


def share_buffers(model: nn.Module) -> None:
    """Give all processes the first one's buffers: its network is the one that is saved.

    Each process's running statistics are of its own images, but for synchronised batch norms.
    """
    from torch import distributed

    for buffer in model.buffers():
        distributed.broadcast(buffer, src=0)


def _measure(
    model: nn.Module,
    loader: Loader,
    data: Data,
    accelerator: Accelerator,
    on_batch: Callable[[Batch], None],
    places: Callable[[int], Sequence[int] | None],
) -> Metrics:
    asked, order, why = False, None, ""
    sums = torch.zeros(4, dtype=torch.float64, device=accelerator.device)  # top-1, -5, loss, images
    share = {"rank": accelerator.process_index, "world": accelerator.num_processes}
    for batch in loader.batches(0, **share, device=accelerator.device):
        if len(batch.labels):
            with accelerator.autocast():
                output = model(normalise(batch.images, data.mean, data.std))
                logits = split_outputs(output)[0].float()
            if len(data.classes) > logits.shape[1]:
                raise ValueError(
                    f"{data.name} has {len(data.classes)} classes, more than the head's "
                    f"{logits.shape[1]}"
                )
            if not asked:
                asked, order = True, places(logits.shape[1])
            labels = batch.labels
            if order is not None:
                labels = torch.tensor(order, device=labels.device)[labels]
            best = logits.topk(min(5, logits.shape[1])).indices == labels[:, None]
            losses = F.cross_entropy(logits, labels, reduction="none").double()
            hits = best[:, 0].sum().double(), best.sum().double()
            sums += torch.stack([*hits, losses.sum(), hits[0].new_tensor(len(best))])
        why = why or next(iter(batch.unreadable.values()), "")
        on_batch(batch)
    if accelerator.num_processes > 1:
        sums = accelerator.reduce(sums, "sum")
    top1, top5, loss, count = sums.tolist()
    if not count:
        raise ValueError(
            f"none of {len(loader.dataset)} images of {data.name} could be read; the first: {why}"
        )
    return Metrics(100 * top1 / count, 100 * top5 / count, loss / count, int(count))


def evaluate(
    model: str | Path | nn.Module,
    data: str | None = None,
    *,
    split: str = "test",
    fold: bool = False,
    classes: Sequence[str] | None = None,
    **options: Any,
) -> Metrics:
    """Top-1 and top-5 of a finished run, or of any module, on a data set.

    Args:
        model: a run's directory, or a module that maps images [N, C, H, W] to logits.
        data: a name or a path as for `ab.train`; by default, for a run, what it was trained on. A
            warning says if that is no longer what it was.
        split: "test", "train" (measured without augmentation), or "validation" (the data's own, or
            the share that the run held out).
        fold: measure the network as `ab.fold` makes it for inference.
        classes: of a module, the names of its outputs in their order; the data's class names are
            looked up among them. ImageNet's need not be given. A run knows its own.
        options: `image_size`, `mean`, `std`, `interpolation`, `crop_pct`, `crop_mode`,
            `eval_batch_size`, `device`, `precision`, `workers`, `data_dir`, `image_column`,
            `label_column`, `bad_images`, `validation`: by default the run's own; for a module what
            its `pretrained_cfg` (of timm) says, else the defaults of `ab.train`.

    Raises:
        ValueError: for a directory without a finished run, an unknown option, or data that do not
            fit the network: among them class names that tell no outputs.
    """
    opened = open_measured(model, data, split=split, classes=classes, **options)
    network, loaded = opened.network, opened.data
    if fold:
        from accuracy_booster import fastpath

        channels, (height, width) = loaded.in_chans, loaded.image_size
        example = torch.zeros(opened.loader.batch_size, channels, height, width)
        network = fastpath.fold(copy.deepcopy(network).eval(), example=example)
    return measure_opened(opened, network)


def measure_opened(opened: Opened, network: nn.Module | None = None) -> Metrics:
    """Measure the opened network, or another one in its place, on the split that was opened.

    Raises:
        TrainingStopped: if more images cannot be read than `bad_images` allows.
    """
    loaded, loader = opened.data, opened.loader
    network = opened.network if network is None else network

    def measured(on_batch: OnBatch) -> Metrics:
        return measure(network, loader, loaded, opened.accelerator, on_batch, opened.places)

    return measure_shown(measured, loaded, loader, opened.config.bad_images)


def measure_shown(
    measured: Callable[[OnBatch], Measure], data: TrainingData, loader: Loader, bad_images: int
) -> Measure:
    """What `measured` gives, with a progress bar, and a warning for each image that was left out.

    Args:
        measured: measures on a loader, and calls what it is given after each batch.

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

"""Measure a network: top-1 and top-5, exactly once per image."""

# N batch, C channels, H W space

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import nn

from accuracy_booster.data import Data, load_data, normalise
from accuracy_booster.progress import bars
from accuracy_booster.training.config import TrainConfig
from accuracy_booster.training.engine import load_network, make_accelerator
from accuracy_booster.training.run import Run


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
def measure(model: nn.Module, loader, data: Data, accelerator, on_batch=None) -> Metrics:
    """Run `loader` (prepared by the accelerator) through the model in eval mode."""
    from torchmetrics import MeanMetric
    from torchmetrics.classification import MulticlassAccuracy

    was_training = model.training
    model.eval()
    top1 = top5 = None
    loss = MeanMetric().to(accelerator.device)
    count = 0
    for images, labels in loader:
        with accelerator.autocast():
            logits = model(normalise(images, data.mean, data.std))
        logits, labels = accelerator.gather_for_metrics((logits.float(), labels))
        if top1 is None:
            classes = logits.shape[1]
            _check_classes(classes, len(data.classes), data.name)
            top1, top5 = (
                MulticlassAccuracy(classes, k, average="micro").to(accelerator.device)
                for k in (1, min(5, classes))
            )
        top1.update(logits, labels)
        top5.update(logits, labels)
        loss.update(F.cross_entropy(logits, labels), weight=len(labels))
        count += len(labels)
        if on_batch:
            on_batch()
    model.train(was_training)
    return Metrics(100 * top1.compute().item(), 100 * top5.compute().item(), loss.compute().item(), count)


def _check_classes(outputs: int, classes: int, name: str) -> None:
    if classes > outputs:
        raise ValueError(f"{name} has {classes} classes, more than the head's {outputs} outputs")


def evaluate(
    model: str | Path | nn.Module,
    data: str | None = None,
    *,
    split: str = "test",
    image_size: int | tuple[int, int] | None = None,
    mean: Sequence[float] | None = None,
    std: Sequence[float] | None = None,
    batch_size: int | None = None,
    device: str | None = None,
    precision: str | None = None,
    workers: int | None = None,
    data_dir: str | None = None,
    image_column: str | None = None,
    label_column: str | None = None,
) -> Metrics:
    """Top-1 and top-5 of a finished run, or of any module, on a data set.

    Args:
        model: a run's directory, or a module that maps images [N, C, H, W] to logits.
        data: see `ab.train`; by default, for a run, the data it was trained on.
        split: "test" or "train" (measured without augmentation).
        mean, std, image_size and the others: by default the run's; for a module, as `ab.train`.

    Raises:
        ValueError: for a directory without a finished run, or data that do not fit the network.
    """
    given = {
        "image_size": image_size,
        "mean": None if mean is None else tuple(mean),
        "std": None if std is None else tuple(std),
        "data_dir": data_dir,
        "image_column": image_column,
        "label_column": label_column,
        "eval_batch_size": batch_size,
        "device": device,
        "precision": precision,
        "workers": workers,
    }
    chosen = {name: value for name, value in given.items() if value is not None}
    classes = None
    if isinstance(model, nn.Module):
        if data is None:
            raise ValueError("which data? pass data=... with a module")
        config = TrainConfig("module", data=data, **chosen)
        network = model
    else:
        run, stored = Run.open(Path(model))
        columns = ("image_column", "label_column") if data and data != stored.data else ()
        config = replace(stored, **{**dict.fromkeys(columns), **chosen}, data=data or stored.data)
        classes = run.info["classes"]
        network = load_network(Path(model), stored)
    if split not in ("test", "train"):
        raise ValueError(f"split={split!r} must be 'test' or 'train'")
    accelerator = make_accelerator(config)
    loaded = load_data(
        config.data,
        splits=(split,),
        eval_batch_size=config.eval_batch_size,
        batch_size=config.eval_batch_size,
        training=False,
        image_size=config.image_size,
        mean=config.mean,
        std=config.std,
        classes=classes,
        workers=config.workers,
        data_dir=config.data_dir,
        image_column=config.image_column,
        label_column=config.label_column,
    )
    if config.in_chans not in (None, loaded.in_chans):
        raise ValueError(
            f"the network takes images of {config.in_chans} channels, {loaded.name} has "
            f"{loaded.in_chans}"
        )
    network.to(accelerator.device)
    loader = accelerator.prepare(loaded.loaders[split])
    with bars() as progress:
        task = progress.add_task(f"Measuring {loaded.name}", total=len(loader), note="")
        return measure(network, loader, loaded, accelerator, lambda: progress.advance(task))

"""Measure a network: top-1 and top-5, exactly once per image."""

# N batch, C channels, H W space

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.data import DataLoader

from accuracy_booster.data import Data, normalise
from accuracy_booster.errors import unknown
from accuracy_booster.progress import bars
from accuracy_booster.training.config import TrainConfig
from accuracy_booster.training.engine import load_network, make_accelerator, open_data
from accuracy_booster.training.run import Run

if TYPE_CHECKING:
    from accelerate import Accelerator

OPTIONS = (
    *("image_size", "mean", "std", "eval_batch_size", "device", "precision", "workers"),
    *("data_dir", "image_column", "label_column"),
)


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
    loader: DataLoader,
    data: Data,
    accelerator: Accelerator,
    on_batch: Callable[[], None] = lambda: None,
) -> Metrics:
    """Run `loader` (prepared by the accelerator) through the model in eval mode."""
    from torchmetrics import MeanMetric
    from torchmetrics.classification import MulticlassAccuracy

    was_training = model.training
    model.eval()
    loss = MeanMetric().to(accelerator.device)
    hits: list[MulticlassAccuracy] = []  # top-1 and top-5, once the head's width is known
    count = 0
    for images, labels in loader:
        with accelerator.autocast():
            logits = model(normalise(images, data.mean, data.std))
        logits, labels = accelerator.gather_for_metrics((logits.float(), labels))
        if not hits:
            outputs = logits.shape[1]
            if len(data.classes) > outputs:
                raise ValueError(
                    f"{data.name} has {len(data.classes)} classes, more than the head's {outputs}"
                )
            for k in (1, min(5, outputs)):
                metric = MulticlassAccuracy(max(2, outputs), k, average="micro")
                hits.append(metric.to(accelerator.device))
        for metric in hits:
            metric.update(logits, labels)
        loss.update(F.cross_entropy(logits, labels), weight=len(labels))
        count += len(labels)
        on_batch()
    model.train(was_training)
    top1, top5 = (100 * metric.compute().item() for metric in hits)
    return Metrics(top1, top5, loss.compute().item(), count)


def evaluate(
    model: str | Path | nn.Module, data: str | None = None, *, split: str = "test", **options: Any
) -> Metrics:
    """Top-1 and top-5 of a finished run, or of any module, on a data set.

    Args:
        model: a run's directory, or a module that maps images [N, C, H, W] to logits.
        data: a name or a path as for `ab.train`; by default, for a run, what it was trained on.
        split: "test", "train" (measured without augmentation), or "validation" (the data's own, or
            the share that the run held out).
        options: `image_size`, `mean`, `std`, `eval_batch_size`, `device`, `precision`, `workers`,
            `data_dir`, `image_column`, `label_column`: by default the run's own; for a module the
            defaults of `ab.train`.

    Raises:
        ValueError: for a directory without a finished run, an unknown option, or data that do not
            fit the network.
    """
    if split not in ("test", "train", "validation"):
        raise ValueError(f"split={split!r} must be 'test', 'train' or 'validation'")
    for name in options:
        if name not in OPTIONS:
            raise unknown("option", name, OPTIONS)
    classes = None
    if isinstance(model, nn.Module):
        if data is None:
            raise ValueError("which data? a module does not know; pass data=...")
        network, config = model, TrainConfig("module", data=data).change(options)
    elif not isinstance(model, (str, Path)):
        raise ValueError(f"expected a run's directory or a module, got {type(model).__name__}")
    else:
        run, config = Run.open(Path(model))
        network, classes = load_network(run.path, config), run.info["classes"]
        if data not in (None, config.data):  # other data: their columns have other names
            config = config.change({"data": data, "image_column": None, "label_column": None})
        config = config.change(options)
    accelerator = make_accelerator(config)
    held_out = split == "validation"
    loaded = open_data(
        config,
        splits=("train",) if held_out else (split,),
        training=False,
        validation=config.validation if held_out else 0.0,
        classes=classes,
    )
    if split not in loaded.loaders:
        raise ValueError(f"{loaded.name} has no validation split, and the run held none out")
    first = next((m for m in network.modules() if isinstance(m, nn.Conv2d)), None)
    if first is not None and first.in_channels != loaded.in_chans:
        raise ValueError(
            f"the network takes images of {first.in_channels} channels, {loaded.name} has "
            f"{loaded.in_chans}"
        )
    network.to(accelerator.device)
    loader = accelerator.prepare(loaded.loaders[split])
    with bars() as progress:
        task = progress.add_task(f"Measuring {loaded.name}", total=len(loader), note="")
        return measure(network, loader, loaded, accelerator, lambda: progress.advance(task))

"""Top-1, top-5 and loss of a network on a data set: every image counts exactly once."""

# N images of a batch, K outputs of the network

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import nn

from accuracy_booster.data import Data, normalise
from accuracy_booster.data.batches import Batch, Loader
from accuracy_booster.surgery.modes import in_eval_mode
from accuracy_booster.training.network_outputs import split_outputs
from accuracy_booster.training.processes import share_buffers

if TYPE_CHECKING:
    from accelerate import Accelerator

# number of outputs -> the output of each class, or None where they are in the same order
OutputsOfClasses = Callable[[int], Sequence[int] | None]


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
        """100 - top1."""
        return 100 - self.top1

    @property
    def top5_error(self) -> float:
        """100 - top5."""
        return 100 - self.top5

    def to_dict(self) -> dict[str, float]:
        """Plain values, with the errors."""
        return {**asdict(self), "top1_error": self.top1_error, "top5_error": self.top5_error}


@torch.no_grad()
def measure(
    model: nn.Module,
    loader: Loader,
    data: Data,
    accelerator: Accelerator,
    on_batch: Callable[[Batch], None] = lambda batch: None,
    places: OutputsOfClasses = lambda outputs: None,
) -> Metrics:
    """Run `loader` through the model in eval mode; the processes share the images and the result.

    Every image counts once, also where the last batch is ragged or the processes get unequal
    numbers. The sums are exact: hits are whole numbers, losses are added in float64.

    Args:
        on_batch: called after each batch.
        places: asked once, for the output of each class.

    Raises:
        ValueError: if the data have more classes than the model has outputs, or no image could be
            read.
    """
    if accelerator.num_processes > 1:
        share_buffers(model)
    with in_eval_mode(model):
        return _measure(model, loader, data, accelerator, on_batch, places)


def _measure(
    model: nn.Module,
    loader: Loader,
    data: Data,
    accelerator: Accelerator,
    on_batch: Callable[[Batch], None],
    places: OutputsOfClasses,
) -> Metrics:
    asked, order, why = False, None, ""
    sums = torch.zeros(4, dtype=torch.float64, device=accelerator.device)  # top-1, -5, loss, images
    share = {"rank": accelerator.process_index, "world": accelerator.num_processes}
    for batch in loader.batches(0, **share, device=accelerator.device):
        if len(batch.labels):
            with accelerator.autocast():
                output = model(normalise(batch.images, data.mean, data.std))
                logits = split_outputs(output)[0].float()  # [N, K]
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

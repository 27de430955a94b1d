"""Top-1, top-5 and loss of a network on a data set: every image counts exactly once.

Beside these numbers, `measure` keeps what the network answered to each image (`answers`).
"""

# N images of a batch, K outputs of the network

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F
from torch import nn

from accuracy_booster.data import Data, normalise
from accuracy_booster.data.batches import Batch, Loader
from accuracy_booster.surgery.modes import in_eval_mode
from accuracy_booster.training.answers import Answers, AnswersSoFar, ByClass, names_of_outputs
from accuracy_booster.training.network_outputs import split_outputs
from accuracy_booster.training.processes import share_buffers

if TYPE_CHECKING:
    from accelerate import Accelerator

# number of outputs -> the output of each class, or None where they are in the same order
OutputsOfClasses = Callable[[int], Sequence[int] | None]


LEAST_FOR_TOP5 = 6  # classes: of fewer, the top 5 are all or all but none


@dataclass(frozen=True, eq=False)
class Metrics:
    """Accuracies in % and the mean cross-entropy over `images` images, each counted once.

    With fewer than 5 classes top5 is over all of them. Two are equal if these four numbers are.
    """

    top1: float
    top5: float
    loss: float
    images: int

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Metrics):
            return NotImplemented
        return self._numbers() == other._numbers()

    def __hash__(self) -> int:
        return hash(self._numbers())

    def _numbers(self) -> tuple[float, float, float, int]:
        return self.top1, self.top5, self.loss, self.images

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
        names = ("top1", "top5", "loss", "images")
        numbers = dict(zip(names, self._numbers(), strict=True))
        return {**numbers, "top1_error": self.top1_error, "top5_error": self.top5_error}


@dataclass(frozen=True, eq=False)
class Evaluation(Metrics):
    """Metrics, and what the network answered to each image.

    Attributes:
        answers: the true and the given class of each image, K outputs.
        report: the HTML file that `ab.evaluate` has written of it.
    """

    answers: Answers = field(repr=False)
    report: Path | None = None

    @property
    def by_class(self) -> list[ByClass]:
        """The images and the accuracy of each class, in the order of their numbers."""
        return self.answers.by_class

    @property
    def confusion(self) -> torch.Tensor:
        """int64 [K, K]: how many images of a class (row) were taken for a class (column)."""
        return self.answers.confusion

    def details(self) -> dict[str, Any]:
        """The plain values of `to_dict`, and those of the classes and their confusion."""
        return {**self.to_dict(), **self.answers.to_dict()}


def tells_top5(classes: int | None) -> bool:
    """Whether top-5 means something for so many classes. Of 4 classes it is always 100 %."""
    return classes is None or classes >= LEAST_FOR_TOP5


@torch.no_grad()
def measure(
    model: nn.Module,
    loader: Loader,
    data: Data,
    accelerator: Accelerator,
    on_batch: Callable[[Batch], None] = lambda batch: None,
    places: OutputsOfClasses = lambda outputs: None,
) -> Evaluation:
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
) -> Evaluation:
    asked, order, why = False, None, ""
    outputs, seen = 0, AnswersSoFar()
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
                outputs = logits.shape[1]
                asked, order = True, places(outputs)
            labels = batch.labels
            if order is not None:
                labels = torch.tensor(order, device=labels.device)[labels]
            ranked = logits.topk(min(5, logits.shape[1])).indices
            best = ranked == labels[:, None]
            seen.add(logits, ranked[:, 0], labels, batch.indices)
            losses = F.cross_entropy(logits, labels, reduction="none").double()
            hits = best[:, 0].sum().double(), best.sum().double()
            sums += torch.stack([*hits, losses.sum(), hits[0].new_tensor(len(best))])
        why = why or next(iter(batch.unreadable.values()), "")
        on_batch(batch)
    parts = [(outputs, order, seen.all())]
    if accelerator.num_processes > 1:
        from accelerate.utils import gather_object

        sums = accelerator.reduce(sums, "sum")
        parts = gather_object(parts)  # a process without images does not know the outputs
    top1, top5, loss, count = sums.tolist()
    if not count:
        raise ValueError(
            f"none of {len(loader.dataset)} images of {data.name} could be read; the first: {why}"
        )
    outputs, order = max(((n, o) for n, o, _ in parts), key=lambda pair: pair[0])
    answers = Answers.of(
        names_of_outputs(data.classes, order, outputs),
        range(len(data.classes)) if order is None else order,
        [found for _, _, found in parts],
    )
    return Evaluation(100 * top1 / count, 100 * top5 / count, loss / count, int(count), answers)

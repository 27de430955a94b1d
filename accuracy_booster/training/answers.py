"""What a network answered to each image of a data set, class by class.

`measuring` keeps it; the report of a run, `eval` and `ab.evaluate` show it.
"""

# N images, K outputs of the network

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import torch

MOST_IN_JSON = 1000  # classes: of more, the confusion is not written out


@dataclass(frozen=True)
class ByClass:
    """How a network does on the images of one class.

    Attributes:
        name: of the class.
        number: of its output.
        images: how many there are.
        correct: how many of them were taken for it.
        confused_with: the class that most of the others were taken for, and how many; None where
            there are none.
    """

    name: str
    number: int
    images: int
    correct: int
    confused_with: tuple[str, int] | None

    @property
    def top1(self) -> float | None:
        """The accuracy in %; None without images."""
        return 100 * self.correct / self.images if self.images else None

    def to_dict(self) -> dict[str, Any]:
        """Plain values."""
        name, count = self.confused_with or (None, 0)
        return {
            **{"class": self.name, "images": self.images, "correct": self.correct},
            **{"top1": self.top1, "confused_with": name, "confused": count},
        }


@dataclass(frozen=True, eq=False)
class Answers:
    """The true and the given class of each image, in the order of the data set.

    Attributes:
        classes: the names of the network's outputs, K.
        known: the numbers of the outputs that are classes of the data.
        labels: int64 [N], the number of the output that is right.
        given: int64 [N], the number of the output with the largest logit.
        probabilities: float32 [N], the softmax of that output.
        indices: int64 [N], the image's number in the data set.
    """

    classes: tuple[str, ...]
    known: tuple[int, ...]
    labels: torch.Tensor
    given: torch.Tensor
    probabilities: torch.Tensor
    indices: torch.Tensor

    @classmethod
    def of(
        cls,
        classes: Sequence[str],
        known: Iterable[int],
        parts: Sequence[tuple[torch.Tensor, ...]],
    ) -> Answers:
        """Put together what several processes saw."""
        labels, given, probabilities, indices = (torch.cat(row) for row in zip(*parts, strict=True))
        order = indices.argsort(stable=True)
        rows = (values[order] for values in (labels, given, probabilities, indices))
        return cls(tuple(classes), tuple(known), *rows)

    def __len__(self) -> int:
        return len(self.labels)

    @cached_property
    def pairs(self) -> list[tuple[int, int, int]]:
        """(true class, given class, images) of all pairs that occur, the most images first."""
        count = len(self.classes)
        found, images = (self.labels * count + self.given).unique(return_counts=True)
        rows = zip(
            (found // count).tolist(), (found % count).tolist(), images.tolist(), strict=True
        )
        return sorted(rows, key=lambda row: (-row[2], row[0], row[1]))

    @property
    def confused(self) -> list[tuple[int, int, int]]:
        """The pairs of two different classes, the most images first."""
        return [pair for pair in self.pairs if pair[0] != pair[1]]

    @property
    def confusion(self) -> torch.Tensor:
        """int64 [K, K]: how many images of a class (row) were taken for a class (column)."""
        count = len(self.classes)
        made = torch.zeros(count, count, dtype=torch.int64)
        for true, given, images in self.pairs:
            made[true, given] = images
        return made

    @cached_property
    def by_class(self) -> list[ByClass]:
        """The images and the accuracy of each class of the data, in the order of their numbers."""
        images, correct = dict.fromkeys(self.known, 0), dict.fromkeys(self.known, 0)
        others: dict[int, tuple[str, int]] = {}
        for true, given, count in self.pairs:
            images[true] = images.get(true, 0) + count
            if true == given:
                correct[true] = count
            else:  # the pairs come with the most images first
                others.setdefault(true, (self.classes[given], count))
        return [
            ByClass(self.classes[k], k, images[k], correct.get(k, 0), others.get(k))
            for k in sorted(images)
        ]

    def all_as_one(self) -> str:
        """A line where every image of several classes was taken for one class; or ""."""
        given = {given for _, given, _ in self.pairs}
        if len(given) != 1 or len({true for true, _, _ in self.pairs}) < 2:
            return ""
        return (
            f"every image was taken for {self.classes[given.pop()]}: the network tells no classes "
            "apart"
        )

    def worst(self, most: int | None = None) -> list[ByClass]:
        """The classes with images, the lowest accuracy first."""
        found = [one for one in self.by_class if one.images]
        return sorted(found, key=lambda one: (one.top1 or 0.0, -one.images, one.number))[:most]

    def mistakes(self, most: int) -> list[int]:
        """The positions, 0..N-1, of the images that were taken for another class: most certain."""
        wrong = (self.labels != self.given).nonzero()[:, 0]
        order = self.probabilities[wrong].argsort(descending=True, stable=True)
        return wrong[order[:most]].tolist()

    def to_dict(self) -> dict[str, Any]:
        """Plain values: all classes, and their confusion where it has at most 1,000 rows."""
        confusion = self.confusion.tolist() if len(self.classes) <= MOST_IN_JSON else None
        return {
            "by_class": [one.to_dict() for one in self.by_class],
            "classes": list(self.classes),
            "confusion": confusion,
        }


@dataclass
class AnswersSoFar:
    """Collects answers batch by batch, on the device: nothing waits for it."""

    rows: list[tuple[torch.Tensor, ...]] = field(default_factory=list)

    def add(
        self,
        logits: torch.Tensor,
        given: torch.Tensor,
        labels: torch.Tensor,
        indices: torch.Tensor,
    ) -> None:
        """Add a batch: logits [N, K], the number of the largest [N], labels [N], indices [N]."""
        # exp(logit - logsumexp) is the softmax of one output without those of the others
        chosen = logits.gather(1, given[:, None])[:, 0]
        # clones, since a batch from another process holds a file descriptor as long as it lives
        share = (chosen - logits.logsumexp(1)).exp()
        self.rows.append((labels.clone(), given.clone(), share, indices.clone()))

    def all(self) -> tuple[torch.Tensor, ...]:
        """labels, given, probabilities and indices of all batches, on the CPU."""
        if not self.rows:
            whole, parts = torch.empty(0, dtype=torch.int64), torch.empty(0)
            return whole, whole, parts, whole
        return tuple(torch.cat(row).cpu() for row in zip(*self.rows, strict=True))


def names_of_outputs(
    classes: Sequence[str], places: Sequence[int] | None, outputs: int
) -> list[str]:
    """The names of the outputs of a network; "output 7" for one that is no class of the data.

    Args:
        places: the output of each class; None where they are in the same order.
    """
    names = [f"output {number}" for number in range(outputs)]
    for name, place in zip(classes, places or range(len(classes)), strict=True):
        names[place] = name
    return names

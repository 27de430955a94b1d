"""A source: a data set's splits, each read when it is asked for. Every kind of source makes one."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from accuracy_booster.data.images import Images

Names = tuple[str, ...] | None  # of the classes; None where classes are only numbered
Part = tuple[Images, Names]
Read = Callable[[], Part]


class Unlabelled(ValueError):
    """A split has images and no labels."""


@dataclass(frozen=True)
class Source:
    """The splits of a data set, each with a function that reads it.

    Attributes:
        flips: whether a mirrored image still shows its class, which a digit's does not.
        unsplit: whether the data set has no splits, so that its training split is all of it.
        whole: what it then is, for the message that it has no test split.
    """

    name: str
    splits: Mapping[str, Read]
    flips: bool = True
    unsplit: bool = False
    whole: str = "holds class folders and no train/ and val/"

    def read(self, split: str) -> Part:
        """The images of a split, and the names of its classes or None.

        Raises:
            ValueError: if the split is missing, holds no images, or has labels that are no class
                numbers.
            Unlabelled: if its images have no labels.
        """
        if split not in self.splits:
            have = ", ".join(self.splits) or "none"
            raise ValueError(f"{self.name} has no {split} split; it has: {have}")
        images, classes = self.splits[split]()
        if not len(images):
            raise ValueError(f"the {split} split of {self.name} holds no images")
        low, high = int(images.labels.min()), int(images.labels.max())
        if low == high == -1:  # what Hugging Face and torchvision write for a missing label
            raise Unlabelled(f"the {split} split of {self.name} has no labels: all are -1")
        count = len(images.labels.unique()) if classes is None else len(classes)
        # numbers without names may have gaps, but not so large ones that a head would be huge
        limit = max(1000, 10 * count) if classes is None else count
        if low < 0 or high >= limit:
            what = f"the {split} split of {self.name} has labels {low} to {high}"
            if low < 0:
                raise ValueError(
                    f"{what}, and class numbers start at 0; number the classes from 0, and leave "
                    f"out images without a label, if {low} means that"
                )
            known = "" if classes is None else f", since there are {count} names of classes"
            raise ValueError(
                f"{what}: no class numbers, which go from 0 to {count - 1} here{known}; number "
                "the classes from 0 without gaps"
            )
        return images, classes

"""An opened data set: the loaders of its splits, and what a network must know of it.

`load_data` makes it; training, comparison and evaluation get it.
"""

# N batch, C channels, H W space

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any

from accuracy_booster.data.batches import Loader
from accuracy_booster.data.encoded_images import EncodedImages
from accuracy_booster.data.marks import difference
from accuracy_booster.data.normalisation import Stats


@dataclass(frozen=True)
class Data:
    """Loaders of (uint8 images [N, C, H, W], labels [N]), and what a network must know of them.

    Attributes:
        whole: images are measured whole, resized where need be, and not cropped: they are small.
        unreadable: why images were left out when the data were read into memory.
        marks: of each split that was read (`marks_of`).
        encoded: each split that was read from files, as it was before images were kept in memory.
        make_loaders: new loaders of the same images, by a seed.
    """

    name: str
    classes: tuple[str, ...]
    in_chans: int
    image_size: tuple[int, int]
    mean: Stats
    std: Stats
    augment: str
    interpolation: str | None
    crop_pct: float | None
    crop_mode: str | None
    whole: bool
    unreadable: list[str]
    marks: dict[str, dict[str, Any]]
    encoded: dict[str, EncodedImages] = field(repr=False)
    loaders: dict[str, Loader] = field(repr=False)
    make_loaders: Callable[[int], dict[str, Loader]] = field(repr=False)

    def difference(self, split: str, known: Any) -> str:
        """How a split differs from the one that has the marks `known`, as text, or ""."""
        return difference(self.encoded.get(split), self.marks[split], known)

    def reseed(self, seed: int) -> Data:
        """The same images in new loaders, as `load_data(..., seed=seed)` would give them."""
        return replace(self, loaders=self.make_loaders(seed))

    def check_trainable(self) -> None:
        """Raise ValueError unless there are two training images or more, of two classes."""
        images = self.loaders["train"].dataset.images
        if (count := len(images)) < 2:
            lost = len(self.unreadable)
            more = f" ({lost} more cannot be read; the first: {self.unreadable[0]})" if lost else ""
            raise ValueError(
                f"the train split of {self.name} has {count} image{more}, and a batch norm needs "
                "two; add images"
            )
        learned = images.labels.unique().tolist()
        if len(learned) == 1:
            one = self.classes[learned[0]]
            remedy = (
                "give images of a second class"
                if self.name.startswith("dataset/")
                else "put the images of each class into a folder of its own"
            )
            raise ValueError(
                f"all {count:,} training images of {self.name} are of one class, {one!r}, and a "
                f"classifier needs two: {remedy}"
            )

    @property
    def input_size(self) -> tuple[int, int, int]:
        """(C, H, W) of the network's input."""
        return (self.in_chans, *self.image_size)

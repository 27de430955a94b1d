"""The images that a user gives to `predict`, as a data set: files, PIL images, arrays, tensors."""

# N images, C channels, H W space

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from accuracy_booster.data.encoded_images import EncodedImages, ReadPath
from accuracy_booster.data.images import Images, Item
from accuracy_booster.data.pictures import Picture, find_images, pixels_of, with_channels
from accuracy_booster.errors import shown


class GivenImages(Images):
    """Images by their positions. Their labels are all 0, since they have none.

    Args:
        items: paths of files, and images.
        numbers: the number of each item among what the user gave, for messages.
        chans: channels of the network's input, C.
    """

    def __init__(self, items: Sequence[Any], numbers: Sequence[int], chans: int):
        self.items, self.numbers, self.chans = items, numbers, chans
        self.labels = torch.zeros(len(items), dtype=torch.int64)
        paths = [item if isinstance(item, str) else "" for item in items]
        self._files = EncodedImages(ReadPath(paths), self.labels, "the given images")

    def __getitem__(self, index: int) -> Item:
        item = self.items[index]
        if isinstance(item, str):
            return with_channels(self._files[index][0], self.chans), 0
        return pixels_of(item, self.numbers[index], self.chans), 0

    def where(self, index: int) -> str:
        if isinstance(self.items[index], str):
            return self._files.where(index)
        return f"number {self.numbers[index]}"

    def called(self, index: int) -> str | int:
        """The path of an image's file, or its number among what the user gave."""
        item = self.items[index]
        return item if isinstance(item, str) else self.numbers[index]


def given_images(
    images: Picture | Iterable[Picture], chans: int, at_once: int
) -> Iterator[GivenImages]:
    """Data sets of the given images, in their order: one, or of an iterator `at_once` at a time.

    So a generator of thousands of images is never held as a whole. Paths are looked up at once,
    where they are a list, so that a wrong one is an error before anything is predicted.

    A path that is given twice comes twice.

    Raises:
        ValueError: if there are none; and as `find_images` and `pixels_of`.
    """
    if isinstance(images, (str, Path, Image.Image, torch.Tensor, np.ndarray)):
        images = _planes(images)
    if not isinstance(images, Iterable):
        raise ValueError(
            f"images={shown(images)} must be files, folders, patterns or images: one, a list or an "
            "iterator of them"
        )
    if isinstance(images, Sequence):
        if not images:
            raise ValueError("no images are given; give files, folders, patterns or images")
        pairs = list(_found(images))
        return iter([GivenImages([item for _, item in pairs], [n for n, _ in pairs], chans)])
    return _in_parts(images, chans, at_once)


def _planes(image: Any) -> list[Any]:
    """One image, or the images of an array or a tensor with a further dimension, as a list."""
    several = isinstance(image, (torch.Tensor, np.ndarray)) and image.ndim == 4
    return list(image) if several else [image]


def _found(images: Iterable[Picture]) -> Iterator[tuple[int, Any]]:
    """(number, image or path) of each; a folder or a pattern gives several paths."""
    for number, image in enumerate(images):
        if isinstance(image, (str, Path)):
            for path in find_images([image]):
                yield number, path
        else:
            yield number, image


def _in_parts(images: Iterable[Picture], chans: int, at_once: int) -> Iterator[GivenImages]:
    pairs = _found(images)
    while part := list(itertools.islice(pairs, at_once)):
        yield GivenImages([item for _, item in part], [number for number, _ in part], chans)

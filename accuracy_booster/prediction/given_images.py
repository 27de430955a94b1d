"""The images that a user gives to `predict`, as a data set: files, PIL images, arrays, tensors."""

# N images, C channels, H W space

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import torch

from accuracy_booster.data.encoded_images import EncodedImages, ReadPath
from accuracy_booster.data.images import Images, Item
from accuracy_booster.data.picture_arrays import Numbered, Picture, numbered
from accuracy_booster.data.pictures import pixels_of, with_channels


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

    So a generator of thousands of images is never held as a whole.

    Raises:
        ValueError: as `numbered` and `pixels_of`.
    """
    pairs = numbered(images)
    if isinstance(pairs, list):
        return iter([_data_set(pairs, chans)])
    return _in_parts(pairs, chans, at_once)


def _in_parts(pairs: Iterator[Numbered], chans: int, at_once: int) -> Iterator[GivenImages]:
    while part := list(itertools.islice(pairs, at_once)):
        yield _data_set(part, chans)


def _data_set(pairs: Sequence[Numbered], chans: int) -> GivenImages:
    return GivenImages([item for _, item in pairs], [number for number, _ in pairs], chans)

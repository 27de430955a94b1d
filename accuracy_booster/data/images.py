"""Data sets of images: items (uint8 tensor [C, H, W], label) by number, and labels by themselves.

`TensorImages` are in memory; `encoded_images` has those that are decoded when they are asked for.
"""

# N images, C channels, H W space

from __future__ import annotations

import zlib
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch.utils.data import Dataset

from accuracy_booster.data.image_errors import TooManyPixels, UnreadableImage

Item = tuple[torch.Tensor, Any]  # an image, and its class number or what a detector learns of it


class Images(Dataset[Item]):
    """A data set whose labels are known without reading an image."""

    labels: torch.Tensor  # [N] int64
    channels: int = 3  # C
    converts: bool = False  # an image that is read is given the number `channels`, grey or colour
    names: Sequence[str] | None = None  # of the files, below the split's folder
    unreadable: tuple[str, ...] = ()  # why images were left out when they were read into memory

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: int) -> Item:
        raise NotImplementedError

    def where(self, index: int) -> str:
        """The name of an image in a message: its file or its number."""
        return f"number {index}"

    def annotated(self) -> dict[str, str]:
        """A hash of the images' annotations, under the name of their kind."""
        labels = self.labels.to(torch.int32).numpy().tobytes()
        return {"labels": f"{zlib.crc32(labels):08x}"}


class TensorImages(Images):
    """Images in memory, uint8 [N, C, H, W]."""

    def __init__(self, images: torch.Tensor, labels: Sequence[int] | torch.Tensor):
        self.images, self.channels = images, images.shape[1]
        self.labels = torch.as_tensor(labels, dtype=torch.int64)

    def __getitem__(self, index: int) -> Item:
        return self.images[index], int(self.labels[index])


class Subset(Images):
    """Some of the images of another data set."""

    def __init__(self, images: Images, indices: Sequence[int]):
        self.images, self.indices = images, list(indices)
        self.labels, self.channels = images.labels[self.indices], images.channels

    def __getitem__(self, index: int) -> Item:
        return self.images[self.indices[index]]

    def where(self, index: int) -> str:
        return self.images.where(self.indices[index])


class Transformed(Dataset[Item]):
    """Images, each changed by a transform of its tensor."""

    def __init__(self, images: Images, transform: Callable[[torch.Tensor], torch.Tensor]):
        self.images, self.transform = images, transform

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> Item:
        image, label = self.images[index]
        try:
            return self.transform(image), label
        except TooManyPixels as e:
            where = self.images.where(index)
            raise UnreadableImage(f"cannot read the image {where}: {e}") from e

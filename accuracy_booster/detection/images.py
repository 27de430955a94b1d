"""The images of a split with their targets, and the same images with augmentation."""

# M boxes of an image, H W space

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from PIL import Image

from accuracy_booster.data.encoded_images import EncodedImages, ReadPath
from accuracy_booster.data.images import Images, TooManyPixels, UnreadableImage
from accuracy_booster.data.pixels import to_rgb
from accuracy_booster.detection.split import Split

Target = dict[str, torch.Tensor]


class DetectionImages(EncodedImages):
    """A map-style data set of (uint8 [3, H, W], target).

    A target is what torchvision's detectors take: boxes float32 [M, 4] (x1, y1, x2, y2 in pixels),
    labels int64 [M] from 1, image_id int64 [1], area float32 [M], iscrowd int64 [M]. It has no
    crowd boxes.

    An image counts as unreadable if its size is not that in the annotations, since its boxes would
    then be wrong.

    Args:
        split: the used images and annotations.
        paths: the file of each image.
        source: where the data come from, for messages.
    """

    def __init__(self, split: Split, paths: Sequence[str], source: str):
        ids = torch.from_numpy(split.image_ids)
        super().__init__(ReadPath(paths, str(split.folder)), ids, source)
        self.split = split
        self.sizes = split.sizes
        rows = np.flatnonzero(~split.crowd)
        rows = rows[np.argsort(split.images[rows], kind="stable")]
        counts = np.bincount(split.images[rows], minlength=len(split.image_ids))
        self.ends = counts.cumsum()
        self.starts = self.ends - counts
        self.boxes = torch.from_numpy(split.corners[rows])
        self.box_labels = torch.from_numpy(split.labels[rows])
        self.areas = torch.from_numpy(split.areas[rows].astype(np.float32))

    def target(self, index: int) -> Target:
        """The target of an image."""
        rows = slice(int(self.starts[index]), int(self.ends[index]))
        labels = self.box_labels[rows].clone()
        return {
            "boxes": self.boxes[rows].clone(),
            "labels": labels,
            "image_id": self.labels[index : index + 1].clone(),
            "area": self.areas[rows].clone(),
            "iscrowd": torch.zeros_like(labels),
        }

    def __getitem__(self, index: int) -> tuple[torch.Tensor, Target]:
        with self.open(index) as image:
            try:
                stored = image.size
                upright = to_rgb(image)
                self._check_size(index, upright, stored)
                pixels = np.array(upright)
            except Exception as e:
                raise self._unreadable(index, e) from e
        return torch.from_numpy(pixels).permute(2, 0, 1), self.target(index)

    def _check_size(self, index: int, image: Image.Image, stored: tuple[int, int]) -> None:
        """Raise ValueError if an upright image does not have the size in its annotations.

        Args:
            stored: (W, H) of the image before it is turned upright.
        """
        height, width = self.sizes[index].tolist()
        if image.size == (width, height):
            return
        what = (
            f"it has {image.height} x {image.width} pixels, and its annotations are of "
            f"{height} x {width}, so that its boxes would be wrong"
        )
        if stored == (width, height):
            what += (
                ": they were made on the image as it lies in the file, and its EXIF data turn it; "
                "remove its EXIF orientation"
            )
        raise ValueError(what)

    def annotated(self) -> dict[str, str]:
        """A hash of the annotations, which `data.marks` keeps to recognise the data."""
        split, sha = self.split, hashlib.sha256()
        columns = (split.image_ids, split.sizes, split.images, split.labels, split.boxes)
        for values in (*columns, split.areas, split.crowd):
            sha.update(np.ascontiguousarray(values).tobytes())
        return {"annotations": sha.hexdigest()[:16]}


class Augmented(Images):
    """Images with an augmentation, which changes pixels and targets together."""

    def __init__(
        self,
        images: DetectionImages,
        augment: Callable[[torch.Tensor, Target], tuple[torch.Tensor, Target]],
    ):
        self.images, self.augment = images, augment
        self.labels, self.names = images.labels, images.names

    def __getitem__(self, index: int) -> tuple[torch.Tensor, Target]:
        image, target = self.images[index]
        try:
            return self.augment(image, target)
        except TooManyPixels as e:
            where = self.where(index)
            raise UnreadableImage(f"cannot read the image {where}: {e}") from e

    def where(self, index: int) -> str:
        return self.images.where(index)

    def annotated(self) -> dict[str, Any]:
        return self.images.annotated()

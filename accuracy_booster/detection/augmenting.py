"""Augmentation of images with their boxes, as in torchvision's reference training of detectors.

All random numbers come from torch's generator, which the loader seeds for each image.
"""

# M boxes of an image, H W space

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import torch

from accuracy_booster.data.cropping import MOST, check_pixels
from accuracy_booster.data.image_errors import TooManyPixels
from accuracy_booster.detection.choices import AUGMENTS
from accuracy_booster.errors import shown, unknown

if TYPE_CHECKING:
    from accuracy_booster.detection.images import Target

FILL = (123, 117, 104)  # ImageNet's mean colour, for the area beside an image
# "multiscale": pixels of the shorter edge, and the most of the longer one
SHORTEST = (480, 512, 544, 576, 608, 640, 672, 704, 736, 768, 800)
LONGEST = 1333
# "lsj": the largest edge of its squares in pixels, and its scales
LARGEST_SQUARE = 4096
JITTER = (0.1, 2.0)
# "ssd": how many times longer an edge becomes at most, and the shortest edge in pixels of an image
# that is cropped. A crop keeps at least 0.3 of an edge.
ZOOM = 4.0
SMALLEST_CROPPED = 16


class Augmentation:
    """A random change of (image, target).

    none        no change
    flip        mirrors the image with a probability of one half
    multiscale  resizes the image so that its shorter edge has one of `SHORTEST` pixels
    lsj         resizes the image to between 0.1 and 2 times `size`, and crops or fills it to a
                square of `size` (large-scale jitter; Ghiasi et al., "Simple Copy-Paste")
    ssd         changes the colours, puts the image into a larger one, and crops it so that some of
                the boxes remain (Liu et al., "SSD")

    The last three also mirror the image with a probability of one half. They remove boxes that come
    to lie outside the image or become thinner than a pixel, and scale the areas as the boxes.

    Args:
        name: one of these.
        size: the edge in pixels of the square images that "lsj" makes.

    Raises:
        ValueError: for an unknown name, or a size that is not a whole number from 64 to 4096.
    """

    def __init__(self, name: str, size: int = 1024):
        if name not in AUGMENTS:
            raise unknown("augment", name, AUGMENTS)
        if type(size) is not int or not 64 <= size <= LARGEST_SQUARE:
            raise ValueError(
                f"augment_size={shown(size)} must be a whole number of pixels, 64 to "
                f"{LARGEST_SQUARE:,}"
            )
        from torchvision.transforms import v2

        self.name, self.size = name, size
        flip = v2.RandomHorizontalFlip()
        clean = [v2.ClampBoundingBoxes(), v2.SanitizeBoundingBoxes(labels_getter=_by_box)]
        self.steps: list[Any] = []
        if name == "flip":
            self.steps = [flip]
        elif name == "multiscale":
            self.steps = [v2.RandomShortestSize(SHORTEST, LONGEST), flip, *clean]
        elif name == "lsj":
            square = (size, size)
            crop = v2.RandomCrop(square, pad_if_needed=True, fill=list(FILL))
            self.steps = [v2.ScaleJitter(square, JITTER), crop, flip, *clean]
        elif name == "ssd":
            self.steps = [v2.RandomPhotometricDistort(), _ZoomOut(), _Crop(), flip, *clean]

    def __call__(self, image: torch.Tensor, target: Target) -> tuple[torch.Tensor, Target]:
        """Change an image uint8 [3, H, W] and its target; returns new ones.

        Raises:
            TooManyPixels: for an image that is too long and thin to be resized.
        """
        if self.name == "none":
            return image, target
        from torchvision import tv_tensors

        height, width = image.shape[-2:]
        self._check(height, width)
        boxes = target["boxes"]
        size = (height, width)
        sample = {
            "image": tv_tensors.Image(image),
            "boxes": tv_tensors.BoundingBoxes(boxes, format="XYXY", canvas_size=size),  # type: ignore[call-overload]
            "labels": target["labels"],
            "iscrowd": target["iscrowd"],
            "area": target["area"],
            "number": torch.arange(len(boxes)),
        }
        for step in self.steps:
            sample = step(sample)
        new, kept = sample["boxes"].as_subclass(torch.Tensor), sample["number"]
        area = sample["area"]
        if self.name != "flip":
            area = area * (_areas(new) / _areas(boxes[kept]))
        changed = {"boxes": new, "labels": sample["labels"], "area": area}
        pixels = sample["image"].as_subclass(torch.Tensor)
        return pixels, {**target, **changed, "iscrowd": sample["iscrowd"]}

    def largest(self, height: int, width: int) -> tuple[int, int]:
        """(H, W) of an image with at least the pixels of any image of this size, once augmented."""
        if self.name == "multiscale":
            return max(SHORTEST), LONGEST
        if self.name == "lsj":
            return self.size, self.size
        factor = _most_zoom(height, width) if self.name == "ssd" else 1
        return int(height * factor), int(width * factor)

    def _check(self, height: int, width: int) -> None:
        """Raise TooManyPixels for an image that is too long and thin to be resized."""
        if self.name not in ("multiscale", "lsj"):
            return
        # the smallest scaled shorter edge, which torchvision rounds down; it must not become 0
        least = LONGEST if self.name == "multiscale" else JITTER[0] * self.size
        if least * min(height, width) <= max(height, width):
            raise TooManyPixels(
                f"its {height} x {width} pixels are so long and thin that nothing is left of them "
                f"when they are resized (augment={self.name})"
            )
        largest = LONGEST if self.name == "multiscale" else math.ceil(JITTER[1] * self.size)
        check_pixels(height, width, (largest, largest))


class _ZoomOut:
    """Puts the image into a larger one, which has no more pixels than `data.cropping.MOST`."""

    def __call__(self, sample: dict[str, Any]) -> dict[str, Any]:
        from torchvision.transforms import v2

        most = _most_zoom(*sample["image"].shape[-2:])
        return v2.RandomZoomOut(fill=list(FILL), side_range=(1.0, most))(sample)


class _Crop:
    """Crops the image so that some boxes remain. In tiny images torchvision would divide by 0."""

    def __call__(self, sample: dict[str, Any]) -> dict[str, Any]:
        from torchvision.transforms import v2

        tiny = min(sample["image"].shape[-2:]) < SMALLEST_CROPPED
        return sample if tiny else v2.RandomIoUCrop()(sample)


def _most_zoom(height: int, width: int) -> float:
    """How many times longer the edges of an image may become."""
    return max(1.0, min(ZOOM, math.sqrt(MOST / (height * width))))


def _areas(boxes: torch.Tensor) -> torch.Tensor:
    return (boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1])


def _by_box(sample: dict[str, Any]) -> list[torch.Tensor]:
    """The values from which torchvision removes the entries of removed boxes."""
    return [sample[name] for name in ("labels", "iscrowd", "area", "number")]

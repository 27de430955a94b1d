"""Augmentation of images with their boxes, as torchvision's reference for detection has it.

Random numbers come from torch's generator alone, which the loader seeds for each image.
"""

# M boxes of an image, H W space

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import torch

from accuracy_booster.data.images import TooManyPixels
from accuracy_booster.data.transforms import MOST, check_pixels
from accuracy_booster.detection.choices import AUGMENTS
from accuracy_booster.errors import shown, unknown

if TYPE_CHECKING:
    from accuracy_booster.detection.images import Target

FILL = (123, 117, 104)  # ImageNet's mean colour, for what lies beside the image
SHORTEST = (480, 512, 544, 576, 608, 640, 672, 704, 736, 768, 800)  # pixels, "multiscale"
LONGEST = 1333
LARGEST_SQUARE = 4096  # pixels, "lsj"
JITTER = (0.1, 2.0)  # scales of "lsj"
ZOOM = 4.0  # how much longer "ssd" makes an edge at most
SMALLEST_CROPPED = 16  # pixels: the crop of "ssd" keeps 0.3 of an edge, and at least a few pixels


class Augmentation:
    """A change of (image, target), random as torch's generator is.

    none        the image as it is
    flip        mirrored, or not
    multiscale  resized so that its shorter edge has one of `SHORTEST` pixels; and mirrored
    lsj         resized by up to 2 or down to 0.1 times `size`, then a crop of `size`, filled up
                where the image is smaller (Ghiasi et al., "Simple Copy-Paste"); and mirrored
    ssd         other colours, the image within a larger one, a crop that keeps some of the boxes
                (Liu et al., "SSD"); and mirrored

    Boxes that come to lie outside, or that become thinner than a pixel, are removed by the last
    three; the areas change as their boxes do.

    Args:
        size: edge of the square images that "lsj" makes, in pixels.

    Raises:
        ValueError: for an unknown name, or for a size that is no whole number from 64 to 4096.
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
        clean = [v2.ClampBoundingBoxes(), v2.SanitizeBoundingBoxes(labels_getter=_in_step)]
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
        """uint8 [3, H, W] and its target -> others.

        Raises:
            TooManyPixels: for an image that is too long, or too thin, to be resized.
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
        """(H, W) that no image of this size exceeds in pixels once it is augmented."""
        if self.name == "multiscale":
            return max(SHORTEST), LONGEST
        if self.name == "lsj":
            return self.size, self.size
        factor = _most_zoom(height, width) if self.name == "ssd" else 1
        return int(height * factor), int(width * factor)

    def _check(self, height: int, width: int) -> None:
        if self.name not in ("multiscale", "lsj"):
            return
        # the least that the shorter edge is scaled to, of which torchvision takes the whole pixels
        least = LONGEST if self.name == "multiscale" else JITTER[0] * self.size
        if least * min(height, width) <= max(height, width):
            raise TooManyPixels(
                f"its {height} x {width} pixels are so long and thin that nothing is left of them "
                f"when they are resized (augment={self.name})"
            )
        largest = LONGEST if self.name == "multiscale" else math.ceil(JITTER[1] * self.size)
        check_pixels(height, width, (largest, largest))


class _ZoomOut:
    """The image within a larger one, of no more pixels than memory has room for."""

    def __call__(self, sample: dict[str, Any]) -> dict[str, Any]:
        from torchvision.transforms import v2

        most = _most_zoom(*sample["image"].shape[-2:])
        return v2.RandomZoomOut(fill=list(FILL), side_range=(1.0, most))(sample)


class _Crop:
    """A part of the image that keeps some of the boxes; torchvision divides by 0 in tiny ones."""

    def __call__(self, sample: dict[str, Any]) -> dict[str, Any]:
        from torchvision.transforms import v2

        tiny = min(sample["image"].shape[-2:]) < SMALLEST_CROPPED
        return sample if tiny else v2.RandomIoUCrop()(sample)


def _most_zoom(height: int, width: int) -> float:
    return max(1.0, min(ZOOM, math.sqrt(MOST / (height * width))))


def _areas(boxes: torch.Tensor) -> torch.Tensor:
    return (boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1])


def _in_step(sample: dict[str, Any]) -> list[torch.Tensor]:
    """What loses the entries of the boxes that are removed."""
    return [sample[name] for name in ("labels", "iscrowd", "area", "number")]

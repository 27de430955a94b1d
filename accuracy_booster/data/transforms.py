"""Resizing and cropping an image of any size to the network's input size, without randomness.

`loaders` measures with `eval_transform`. `augmentation` and `detection` resize as it does.
"""

# C channels, H W space

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import torch

from accuracy_booster.data.cropping import Crop, check_pixels

if TYPE_CHECKING:
    from torchvision.transforms.v2 import InterpolationMode

Transform = Callable[[torch.Tensor], torch.Tensor]


def resize(image: torch.Tensor, size: tuple[int, int], interpolation: str) -> torch.Tensor:
    """uint8 [C, *, *] -> uint8 [C, *size], antialiased as in Pillow.

    Raises:
        TooManyPixels: for a size or a shape that takes too much memory.
    """
    from torchvision.transforms.v2 import functional as F

    check_pixels(image.shape[-2], image.shape[-1], size)
    mode = interpolation_mode(interpolation)
    return F.resize(image, list(size), interpolation=mode, antialias=True)


def interpolation_mode(interpolation: str) -> InterpolationMode:
    """torchvision's name for one of `choices.INTERPOLATIONS`; its "nearest" is half a pixel off."""
    from torchvision.transforms.v2 import InterpolationMode

    exact = {"nearest": "nearest-exact"}
    return InterpolationMode(exact.get(interpolation, interpolation))


def eval_transform(
    size: tuple[int, int],
    now: tuple[int, int] | None,
    small: bool,
    interpolation: str = "bilinear",
    crop_pct: float | None = None,
    crop_mode: str = "center",
    fill: tuple[float, ...] = (0.0,),
) -> Transform:
    """The transform for measuring, uint8 [C, *, *] -> uint8 [C, *size].

    Args:
        now: [H, W] of the images, if all have one size.
        small: whether the data set's images are small. They are resized, large ones are cropped.
        crop_pct: the share of the resized image's edge that the crop keeps; by default 224 / 256.
        crop_mode: "center" crops the image, "squash" first gives it the crop's aspect ratio, and
            "border" keeps all of it between borders of the colour `fill`, per channel in [0, 1].
    """
    if small:
        return unchanged if size == now else Resize(size, interpolation)
    return CentreCrop(size, interpolation, crop_pct, crop_mode, fill)


class Resize:
    """The whole image at another size."""

    def __init__(self, size: tuple[int, int], interpolation: str):
        self.size, self.interpolation = size, interpolation

    def __call__(self, image: torch.Tensor) -> torch.Tensor:
        """uint8 [C, *, *] -> uint8 [C, *size]."""
        return resize(image, self.size, self.interpolation)


class CentreCrop:
    """The centre of a resized image, in one of timm's crop modes; arguments as `eval_transform`."""

    def __init__(
        self,
        size: tuple[int, int],
        interpolation: str = "bilinear",
        crop_pct: float | None = None,
        crop_mode: str = "center",
        fill: tuple[float, ...] = (0.0,),
    ):
        self.crop = Crop(size, crop_pct, crop_mode, fill)
        self.interpolation = interpolation

    def __call__(self, image: torch.Tensor) -> torch.Tensor:
        """uint8 [C, *, *] -> uint8 [C, *size]."""
        rows, columns = self.crop.middle(*image.shape[-2:])
        image = image[:, rows, columns]
        image = resize(image, self.crop.resized(*image.shape[-2:]), self.interpolation)
        down, across = self.crop.spans(*image.shape[-2:])
        image = image[:, down.kept, across.kept]
        if not down.bordered and not across.bordered:
            return image
        from torchvision.transforms.v2 import functional as F

        borders = [across.before, down.before, across.after, down.after]
        return F.pad(image, borders, fill=self.crop.borders)


class Steps:
    """Transforms, one after the other."""

    def __init__(self, *steps: Transform):
        self.steps = steps

    def __call__(self, image: torch.Tensor) -> torch.Tensor:
        for step in self.steps:
            image = step(image)
        return image


def unchanged(image: torch.Tensor) -> torch.Tensor:
    """The image as it is."""
    return image

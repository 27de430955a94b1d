"""Resizing and cropping an image of any size to the network's input size, without randomness.

`loaders` measures with `eval_transform`. `augmentation` and `detection` resize as it does.
"""

# C channels, H W space

from __future__ import annotations

import math
from collections.abc import Callable
from typing import TYPE_CHECKING

import torch

from accuracy_booster.data.images import TooManyPixels

if TYPE_CHECKING:
    from torchvision.transforms.v2 import InterpolationMode

MOST = 100_000_000  # pixels that an image may have while it is resized
EDGE = 1_000_000  # pixels along an edge: torch computes resizing weights for each of them
LONGEST = 4  # longer sides are cropped to this many times the shorter side before resizing
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


def check_pixels(height: int, width: int, size: tuple[int, int]) -> None:
    """Raise TooManyPixels if resizing an image to `size` makes more than `MOST` pixels on the way.

    torch resizes the width first and then the height, so height x new width pixels lie between.
    """
    if max(height, width) > EDGE:
        raise TooManyPixels(
            f"an edge of its {height} x {width} pixels is longer than {EDGE:,} and is not resized"
        )
    between = height, size[1]
    many = max(between, size, key=math.prod)
    if math.prod(many) <= max(MOST, height * width):
        return
    raise TooManyPixels(
        f"to resize its {height} x {width} pixels to {size[0]} x {size[1]} takes "
        f"{many[0]} x {many[1]} = {math.prod(many):,} pixels, more than {MOST:,}"
    )


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


def default_crop_pct(size: tuple[int, int]) -> float:
    """timm's `crop_pct` of what `CentreCrop` does by default: 0.875, or nearly so.

    Without a `crop_pct` an image is resized to the nearest whole number of pixels, and timm rounds
    down. Of 32 pixels these are 37 and 36.
    """
    side = min(size)
    cover = round(side * 256 / 224)
    if math.floor(side / 0.875 + 1e-6) == cover:
        return 0.875
    return math.floor(1e6 * side / cover) / 1e6


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
        self.size, self.interpolation, self.mode = size, interpolation, crop_mode
        self.fill = [round(255 * value) for value in fill]
        if crop_pct is None:
            self.cover = tuple(round(side * 256 / 224) for side in size)
        else:  # timm rounds down; 224 / (224 / 232) must not become 231
            self.cover = tuple(math.floor(side / crop_pct + 1e-6) for side in size)

    def __call__(self, image: torch.Tensor) -> torch.Tensor:
        """uint8 [C, *, *] -> uint8 [C, *size]."""
        from torchvision.transforms.v2 import functional as F

        if self.mode == "center":
            longest = LONGEST * -(-max(self.cover) // min(self.cover))
            image = _shortened(image, longest)
        image = resize(image, self._resized(*image.shape[-2:]), self.interpolation)
        if self.mode != "border":
            return F.center_crop(image, list(self.size))
        return self._between_borders(image)

    def _resized(self, h: int, w: int) -> tuple[int, int]:
        """The size to which an image of h x w pixels is resized before it is cropped."""
        height, width = self.cover
        if self.mode == "squash":
            return height, width
        by_height = (height * w >= width * h) == (self.mode == "center")
        whole = int if self.mode == "center" else round  # as torchvision and timm do it
        new = (height, whole(height * w / h)) if by_height else (whole(width * h / w), width)
        return max(1, new[0]), max(1, new[1])

    def _between_borders(self, image: torch.Tensor) -> torch.Tensor:
        from torchvision.transforms.v2 import functional as F

        (height, width), (h, w) = self.size, image.shape[-2:]
        down, across = max(0, height - h), max(0, width - w)
        borders = [across // 2, down // 2, (across + 1) // 2, (down + 1) // 2]
        return F.center_crop(F.pad(image, borders, fill=self.fill), list(self.size))


def _shortened(image: torch.Tensor, longest: int) -> torch.Tensor:
    """The middle of a very long image, from which the centre crop is taken.

    Otherwise a 30000 x 1 image, whose shorter edge is enlarged to 256 pixels, would become one of
    two billion pixels.
    """
    h, w = image.shape[-2:]
    keep_h, keep_w = (
        min(side, longest * other + (side - longest * other) % 2)
        for side, other in ((h, w), (w, h))
    )
    top, left = (h - keep_h) // 2, (w - keep_w) // 2
    return image[:, top : top + keep_h, left : left + keep_w]


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

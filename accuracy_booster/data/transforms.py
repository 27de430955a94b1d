"""From an image of any size to the network's input size, for training and for measuring."""

# C channels, H W space

from __future__ import annotations

import math
from collections.abc import Callable

import torch

from accuracy_booster.data.images import TooManyPixels

MOST = 100_000_000  # pixels that an image may have while it is resized
EDGE = 1_000_000  # pixels along an edge of an image that is resized: torch weights each of them
LONGEST = 4  # an image longer than this, in terms of its shorter edge, is cropped before resizing
Transform = Callable[[torch.Tensor], torch.Tensor]


def resize(image: torch.Tensor, size: tuple[int, int], interpolation: str) -> torch.Tensor:
    """uint8 [C, *, *] -> uint8 [C, *size], with antialiasing, as Pillow does it.

    Raises:
        TooManyPixels: for a size, or a shape, that takes too much memory.
    """
    from torchvision.transforms.v2 import functional as F

    check_pixels(image.shape[-2], image.shape[-1], size)
    mode = _mode(interpolation)
    return F.resize(image, list(size), interpolation=mode, antialias=True)


def check_pixels(height: int, width: int, size: tuple[int, int]) -> None:
    """Raise TooManyPixels for an image that has more than `MOST` pixels while it is resized.

    torch resizes along the width first, and then along the height.
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


def _mode(interpolation: str):
    from torchvision.transforms.v2 import InterpolationMode

    exact = {"nearest": "nearest-exact"}
    return InterpolationMode(exact.get(interpolation, interpolation))


def train_transform(
    augment: str,
    size: tuple[int, int],
    now: tuple[int, int] | None,
    interpolation: str = "bilinear",
) -> Transform:
    """uint8 [C, *, *] -> uint8 [C, *size], random; `now` are the images' size if all have one."""
    from torchvision.transforms import v2

    if augment == "resized_crop":
        cropped = v2.RandomResizedCrop(size, interpolation=_mode(interpolation), antialias=True)
        return v2.Compose([cropped, v2.RandomHorizontalFlip()])
    steps: list = [] if size == now else [Resize(size, interpolation)]
    if augment in ("crop", "crop_flip"):
        pad = [max(1, round(side / 8)) for side in size]  # 4 for CIFAR's 32
        steps.append(v2.RandomCrop(size, padding=[pad[1], pad[0]]))
    if augment == "crop_flip":
        steps.append(v2.RandomHorizontalFlip())
    return v2.Compose(steps) if steps else unchanged


def eval_transform(
    size: tuple[int, int],
    now: tuple[int, int] | None,
    small: bool,
    interpolation: str = "bilinear",
    crop_pct: float | None = None,
    crop_mode: str = "center",
    fill: tuple[float, ...] = (0.0,),
) -> Transform:
    """uint8 [C, *, *] -> uint8 [C, *size]: small images are resized, large ones centre-cropped.

    Args:
        crop_pct: what share of the resized image's edge the crop keeps; by default 224 / 256.
        crop_mode: "center" crops the image, "squash" first makes it as wide as high, and "border"
            keeps all of it, between borders of the colour `fill`, per channel in [0, 1].
    """
    if small:
        return unchanged if size == now else Resize(size, interpolation)
    return CentreCrop(size, interpolation, crop_pct, crop_mode, fill)


class Resize:
    """The whole image at another size."""

    def __init__(self, size: tuple[int, int], interpolation: str):
        self.size, self.interpolation = size, interpolation

    def __call__(self, image: torch.Tensor) -> torch.Tensor:
        return resize(image, self.size, self.interpolation)


class CentreCrop:
    """The centre of a resized image, as timm's `crop_mode` says; by default as for ImageNet."""

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
        from torchvision.transforms.v2 import functional as F

        height, width = self.cover
        if self.mode == "squash":
            new = [height, width]
        else:
            if self.mode == "center":
                longest = LONGEST * -(-max(self.cover) // min(self.cover))
                image = _shortened(image, longest)
            h, w = image.shape[-2:]
            by_height = (height * w >= width * h) == (self.mode == "center")
            whole = int if self.mode == "center" else round  # as torchvision and timm do it
            new = [height, whole(height * w / h)] if by_height else [whole(width * h / w), width]
            new = [max(1, side) for side in new]
        image = resize(image, (new[0], new[1]), self.interpolation)
        if self.mode != "border":
            return F.center_crop(image, list(self.size))
        return self._between_borders(image)

    def _between_borders(self, image: torch.Tensor) -> torch.Tensor:
        from torchvision.transforms.v2 import functional as F

        (height, width), (h, w) = self.size, image.shape[-2:]
        down, across = max(0, height - h), max(0, width - w)
        borders = [across // 2, down // 2, (across + 1) // 2, (down + 1) // 2]
        return F.center_crop(F.pad(image, borders, fill=self.fill), list(self.size))


def _shortened(image: torch.Tensor, longest: int) -> torch.Tensor:
    """The middle of a very long image: what a centre crop takes, before it is enlarged.

    The shorter edge of a 30000 x 1 image is enlarged to 256 pixels, and the whole of it would then
    have two billion.
    """
    h, w = image.shape[-2:]
    keep_h, keep_w = (
        min(side, longest * other + (side - longest * other) % 2)
        for side, other in ((h, w), (w, h))
    )
    top, left = (h - keep_h) // 2, (w - keep_w) // 2
    return image[:, top : top + keep_h, left : left + keep_w]


def unchanged(image: torch.Tensor) -> torch.Tensor:
    return image

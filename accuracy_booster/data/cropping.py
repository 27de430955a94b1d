"""Where the centre of an image of any size lies, in timm's words. Nothing here needs torch.

`transforms` crops tensors with it, and `exported` the arrays of a network that runs without torch.
"""

# H W space

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from accuracy_booster.data.image_errors import TooManyPixels

MOST = 100_000_000  # pixels that an image may have while it is resized
EDGE = 1_000_000  # pixels along an edge: there are resizing weights for each of them
LONGEST = 4  # longer sides are cropped to this many times the shorter side before resizing


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


def default_crop_pct(size: tuple[int, int]) -> float:
    """timm's `crop_pct` of what `Crop` does by default: 0.875, or nearly so.

    Without a `crop_pct` an image is resized to the nearest whole number of pixels, and timm rounds
    down. Of 32 pixels these are 37 and 36.
    """
    side = min(size)
    cover = round(side * 256 / 224)
    if math.floor(side / 0.875 + 1e-6) == cover:
        return 0.875
    return math.floor(1e6 * side / cover) / 1e6


@dataclass(frozen=True)
class Span:
    """The part of a side of the resized image that the crop keeps, and the borders around it."""

    start: int
    stop: int
    before: int
    after: int

    @property
    def kept(self) -> slice:
        """The pixels that are kept."""
        return slice(self.start, self.stop)

    @property
    def bordered(self) -> bool:
        """Whether there are borders."""
        return bool(self.before or self.after)


class Crop:
    """The centre crop of a resized image, in one of timm's crop modes.

    Args:
        size: (H, W) of the crop.
        crop_pct: the share of the resized image's edge that the crop keeps; by default 224 / 256.
        mode: "center" crops the image, "squash" first gives it the crop's aspect ratio, and
            "border" keeps all of it between borders of the colour `fill`.
        fill: per channel, in [0, 1]. Elsewhere borders are black.

    Attributes:
        cover: (H, W) to which an image of the crop's aspect ratio is resized.
        borders: the value of each channel in borders, 0 .. 255.
    """

    def __init__(
        self,
        size: Sequence[int],
        crop_pct: float | None = None,
        mode: str = "center",
        fill: Sequence[float] = (0.0,),
    ):
        self.size, self.mode = (size[0], size[1]), mode
        self.borders = [round(255 * value) if mode == "border" else 0 for value in fill]
        if crop_pct is None:
            self.cover = tuple(round(side * 256 / 224) for side in size)
        else:  # timm rounds down; 224 / (224 / 232) must not become 231
            self.cover = tuple(math.floor(side / crop_pct + 1e-6) for side in size)

    def middle(self, h: int, w: int) -> tuple[slice, slice]:
        """The part of an image of h x w pixels that is resized: the middle of a very long one.

        Otherwise a 30000 x 1 image, whose shorter edge is enlarged to 256 pixels, would become one
        of two billion pixels.
        """
        if self.mode != "center":
            return slice(0, h), slice(0, w)
        longest = LONGEST * -(-max(self.cover) // min(self.cover))
        keep_h, keep_w = (
            min(side, longest * other + (side - longest * other) % 2)
            for side, other in ((h, w), (w, h))
        )
        top, left = (h - keep_h) // 2, (w - keep_w) // 2
        return slice(top, top + keep_h), slice(left, left + keep_w)

    def resized(self, h: int, w: int) -> tuple[int, int]:
        """The size to which an image of h x w pixels is resized before it is cropped."""
        height, width = self.cover
        if self.mode == "squash":
            return height, width
        by_height = (height * w >= width * h) == (self.mode == "center")
        whole = int if self.mode == "center" else round  # as torchvision and timm do it
        new = (height, whole(height * w / h)) if by_height else (whole(width * h / w), width)
        return max(1, new[0]), max(1, new[1])

    def spans(self, h: int, w: int) -> tuple[Span, Span]:
        """What the crop keeps of a resized image of h x w pixels, down and across."""
        return _span(h, self.size[0]), _span(w, self.size[1])


def _span(now: int, size: int) -> Span:
    if now < size:
        before = (size - now) // 2
        return Span(0, now, before, size - now - before)
    start = round((now - size) / 2)  # to the even number, as torchvision's center_crop
    return Span(start, start + size, 0, 0)

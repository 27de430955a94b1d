"""Resizing of uint8 images in numpy, with the same pixels as `data.transforms.resize`.

torch resizes uint8 images in whole numbers: antialiased as Pillow does, but with weights of 16 bits
where Pillow has 22, and so do the functions here. Of the pixels of photographs Pillow makes 3 or 4
in a thousand otherwise, by 1 of 255; of black and white noise a bicubic pixel by as much as 30.
"""

# H W space, C channels, T taps: the pixels of which a new pixel is made

from __future__ import annotations

import math
from collections.abc import Callable, Iterator

import numpy as np

from accuracy_booster.data.choices import INTERPOLATIONS
from accuracy_booster.errors import unknown

MOST_BITS = 22  # of a weight behind the point
LARGEST = 1 << 15  # a weight is smaller: it has 16 bits with its sign
# what is computed at a time: new pixels along a side, about so many old ones, and rows of these
NEW, OLD, ROWS = 16, 2048, 512


def resize_part(
    image: np.ndarray,
    size: tuple[int, int],
    rows: slice,
    columns: slice,
    interpolation: str,
) -> np.ndarray:
    """Some rows and columns of a resized image, uint8 [H, W, C] -> uint8 [rows, columns, C].

    Args:
        size: (H, W) of the whole resized image.
        interpolation: one of `choices.INTERPOLATIONS`.

    Raises:
        ValueError: for another interpolation.
    """
    if interpolation not in INTERPOLATIONS:
        raise unknown("interpolation", interpolation, INTERPOLATIONS)
    height, width = image.shape[:2]
    if interpolation == "nearest":
        down, across = _nearest(height, size[0])[rows], _nearest(width, size[1])[columns]
        return image[down[:, None], across]
    vertical = _Taps(height, size[0], rows, interpolation)
    above, below = vertical.needed  # rows of the image that the part is made of
    image = _Taps(width, size[1], columns, interpolation).across(image[above:below])
    return vertical.down(image, above)


def _nearest(old: int, new: int) -> np.ndarray:
    """The old pixel for each new one, the nearest to its centre, int64 [new]."""
    scale = np.float64(np.float32(old) / np.float32(new))  # torch computes it in 32 bits
    centres = ((np.arange(new) + 0.5) * scale).astype(np.float32)
    return np.minimum(np.floor(centres).astype(np.int64), old - 1)


def _triangle(x: np.ndarray) -> np.ndarray:
    return np.maximum(0.0, 1 - np.abs(x))


def _cubic(x: np.ndarray) -> np.ndarray:
    """Keys' cubic with a = -0.5."""
    a, x = -0.5, np.abs(x)
    near = ((a + 2) * x - (a + 3)) * x * x + 1
    far = ((a * x - 5 * a) * x + 8 * a) * x - 4 * a
    return np.where(x < 1, near, np.where(x < 2, far, 0.0))


# {interpolation: (its filter, the filter's half width in pixels)}
_FILTERS: dict[str, tuple[Callable[[np.ndarray], np.ndarray], int]] = {
    "bilinear": (_triangle, 1),
    "bicubic": (_cubic, 2),
}


class _Taps:
    """The pixels along one side of which new pixels are made, and their weights.

    Args:
        old: pixels along the side.
        new: of the resized image.
        part: the new pixels that are wanted.

    Attributes:
        first: the first tap of each wanted pixel, int64 [part].
        weights: whole numbers, in units of 2 ** -bits, float64 [part, T]; 0 behind the last tap.
    """

    def __init__(self, old: int, new: int, part: slice, interpolation: str):
        self.old, self.bits = old, 0
        if old == new:
            self.first = np.arange(new)[part]
            self.weights = np.ones((len(self.first), 1))
            return
        curve, half = _FILTERS[interpolation]
        scale = old / new
        support = half * max(scale, 1.0)
        inverse = 1 / scale if scale >= 1 else 1.0
        centres = scale * (np.arange(new) + 0.5)
        first = np.maximum((centres - support + 0.5).astype(np.int64), 0)
        last = np.minimum((centres + support + 0.5).astype(np.int64), old)
        counts = np.clip(last - first, 0, 2 * math.ceil(support) + 1)
        taps = np.arange(counts.max())
        places = taps + first[:, None] - centres[:, None] + 0.5
        weights = np.where(taps < counts[:, None], curve(places * inverse), 0.0)
        # added one after the other, as torch does: np.sum adds in pairs, which rounds otherwise
        weights /= np.cumsum(weights, axis=1)[:, -1:]
        self.bits = _bits_of(float(weights.max()))
        scaled = weights[part] * (1 << self.bits)
        self.first, self.weights = first[part], np.trunc(scaled + np.copysign(0.5, scaled))

    @property
    def needed(self) -> tuple[int, int]:
        """The first old pixel that is a tap, and the one behind the last."""
        return int(self.first[0]), min(int(self.first[-1]) + self.weights.shape[1], self.old)

    def across(self, image: np.ndarray) -> np.ndarray:
        """uint8 [H, W, C] -> uint8 [H, part, C]."""
        made = np.empty((len(image), len(self.first), image.shape[2]), np.uint8)
        for new, old, weights in self._blocks():
            for top in range(0, len(image), ROWS):
                rows = slice(top, top + ROWS)
                pixels = image[rows, old].transpose(0, 2, 1).astype(np.float64, order="C")
                sums = pixels.reshape(-1, weights.shape[1]) @ weights.T
                made[rows, new] = self._rounded(sums).reshape(*pixels.shape[:2], -1).swapaxes(1, 2)
        return made

    def down(self, image: np.ndarray, above: int) -> np.ndarray:
        """uint8 [H, W, C] -> uint8 [part, W, C] of an image that lacks its first rows, `above`."""
        made = np.empty((len(self.first), *image.shape[1:]), np.uint8)
        for new, old, weights in self._blocks():
            pixels = image[old.start - above : old.stop - above].astype(np.float64)
            sums = weights @ pixels.reshape(len(pixels), -1)
            made[new] = self._rounded(sums).reshape(-1, *image.shape[1:])
        return made

    def _blocks(self) -> Iterator[tuple[slice, slice, np.ndarray]]:
        """(some wanted pixels, their taps, the weights of one by the other): the sums as products.

        They are exact: their terms are whole numbers, and the sums are below 2 ** 53.
        """
        count, taps = self.weights.shape
        size = max(1, min(NEW, OLD // taps))
        for start in range(0, count, size):
            new = slice(start, min(start + size, count))
            first, begin = self.first[new, None], int(self.first[start])
            weights = np.zeros((len(first), int(first[-1, 0]) - begin + taps))
            np.put_along_axis(weights, first - begin + np.arange(taps), self.weights[new], axis=1)
            old = slice(begin, min(begin + weights.shape[1], self.old))
            yield new, old, weights[:, : old.stop - begin]

    def _rounded(self, sums: np.ndarray) -> np.ndarray:
        return np.floor(sums * 0.5**self.bits + 0.5).clip(0, 255).astype(np.uint8)


def _bits_of(largest: float) -> int:
    """The most bits behind the point with which the largest weight of a side has 16 bits."""
    bits = 0
    while bits < MOST_BITS and int(0.5 + largest * (1 << (bits + 1))) < LARGEST:
        bits += 1
    return bits

"""Sizes of anchors for the maps that a backbone has."""

from __future__ import annotations

import math
from collections.abc import Sequence

from torchvision.models.detection.anchor_utils import AnchorGenerator

from accuracy_booster.errors import shown

RATIOS = (0.5, 1.0, 2.0)
LARGEST = 512  # pixels, torchvision's and Detectron's


def anchor_generator(strides: Sequence[int], sizes: Sequence | None = None) -> AnchorGenerator:
    """Anchors of three shapes for maps of these strides, the finest first.

    Args:
        strides: of the maps, in pixels.
        sizes: the sides of the anchors in pixels: for each map a number or several, as many for
            each map; all numbers are of one map where there is one alone. By default they double
            from 8 times the finest stride (32 at most) to 512 and are spread over the maps: one
            each for strides 4, 8, 16, 32, 64, as in torchvision.

    Raises:
        ValueError: for sizes that do not fit the maps.
    """
    rows = _default(strides) if sizes is None else _given(strides, sizes)
    return AnchorGenerator(rows, (RATIOS,) * len(rows))


def _default(strides: Sequence[int]) -> tuple[tuple[int, ...], ...]:
    first = 32 if len(strides) == 1 else min(32, 8 * strides[0])
    steps = round(math.log2(LARGEST / first)) + 1
    each = math.ceil(steps / len(strides))
    count = each * len(strides)
    ratio = (LARGEST / first) ** (1 / (count - 1)) if count > 1 else 1.0
    sides = [round(first * ratio**k) for k in range(count)]
    return tuple(tuple(sides[k : k + each]) for k in range(0, count, each))


def _given(strides: Sequence[int], sizes: Sequence) -> tuple[tuple[int, ...], ...]:
    if len(strides) == 1 and not any(isinstance(row, Sequence) for row in sizes):
        sizes = (tuple(sizes),)
    rows = tuple(
        tuple(row) if isinstance(row, Sequence) and not isinstance(row, str) else (row,)
        for row in sizes
    )
    fits = len(rows) == len(strides) and len({len(row) for row in rows}) == 1 and rows[0]
    if not fits or not all(isinstance(v, (int, float)) and v > 0 for row in rows for v in row):
        places = ", ".join(map(str, strides))
        raise ValueError(
            f"anchor_sizes={shown(sizes)} must give each of the {len(strides)} maps (strides "
            f"{places}) as many sizes > 0 in pixels, such as {shown(_default(strides))}"
        )
    return rows

"""The anchors of a detector: which sizes stand on which of its feature maps."""

from __future__ import annotations

import math
from collections.abc import Sequence

from torchvision.models.detection.anchor_utils import AnchorGenerator

from accuracy_booster.errors import shown

RATIOS = (0.5, 1.0, 2.0)
LARGEST = 512  # pixels, as in torchvision and Detectron


def anchor_generator(strides: Sequence[int], sizes: Sequence | None = None) -> AnchorGenerator:
    """Anchors of three aspect ratios for each feature map.

    Args:
        strides: of the maps in pixels, the finest first.
        sizes: the sides of the anchors in pixels. Each map gets one number, or a row of numbers of
            the same length. One plain row is shared out evenly among the maps, in its order. By
            default the sides grow from 8 times the finest stride (at most 32) to 512 and are
            shared out among the maps. For strides 4, 8, 16, 32, 64 that is one side each, which
            doubles from map to map, as in torchvision.

    Raises:
        ValueError: for sizes that do not fit the maps.
    """
    rows = _default_sizes(strides) if sizes is None else _checked_sizes(strides, sizes)
    return AnchorGenerator(rows, (RATIOS,) * len(rows))


def _default_sizes(strides: Sequence[int]) -> tuple[tuple[int, ...], ...]:
    """The sides for each map: a geometric row from the finest map's to `LARGEST`."""
    first = 32 if len(strides) == 1 else min(32, 8 * strides[0])
    steps = round(math.log2(LARGEST / first)) + 1
    each = math.ceil(steps / len(strides))
    count = each * len(strides)
    ratio = (LARGEST / first) ** (1 / (count - 1)) if count > 1 else 1.0
    sides = [round(first * ratio**k) for k in range(count)]
    return tuple(tuple(sides[k : k + each]) for k in range(0, count, each))


def _checked_sizes(strides: Sequence[int], sizes: Sequence) -> tuple[tuple[int, ...], ...]:
    """The given sides for each map.

    Raises:
        ValueError: for sizes that do not fit the maps.
    """
    each, left = divmod(len(sizes), len(strides))
    if each > 1 and not left and all(isinstance(size, (int, float)) for size in sizes):
        sizes = [sizes[k : k + each] for k in range(0, len(sizes), each)]
    rows = tuple(
        tuple(row) if isinstance(row, Sequence) and not isinstance(row, str) else (row,)
        for row in sizes
    )
    fits = len(rows) == len(strides) and len({len(row) for row in rows}) == 1 and rows[0]
    if not fits or not all(isinstance(v, (int, float)) and v > 0 for row in rows for v in row):
        places = ", ".join(map(str, strides))
        raise ValueError(
            f"anchor_sizes={shown(sizes)} must give each of the {len(strides)} maps (strides "
            f"{places}) as many sizes > 0 in pixels, such as {shown(_default_sizes(strides))}"
        )
    return rows

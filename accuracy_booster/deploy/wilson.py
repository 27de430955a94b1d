"""The interval of an accuracy that was measured on so many images (Wilson 1927)."""

from __future__ import annotations

import math
from statistics import NormalDist

CONFIDENCE = 0.95


def wilson(hits: int, images: int) -> tuple[float, float]:
    """The 95 % interval of the share of right answers, from 0 to 1.

    It says which accuracies on all images of the same kind fit `hits` right answers of `images`,
    if these were drawn at random. It says nothing of other trainings or other images.

    Raises:
        ValueError: unless 0 <= hits <= images, and images >= 1.
    """
    if not 0 <= hits <= images or images < 1:
        raise ValueError(f"hits={hits} must be from 0 to images={images}, and images >= 1")
    z = NormalDist().inv_cdf((1 + CONFIDENCE) / 2)
    share, spread = hits / images, z * z / images
    middle = share + spread / 2
    half = z * math.sqrt(share * (1 - share) / images + spread / images / 4)
    low, high = ((middle + sign * half) / (1 + spread) for sign in (-1, 1))
    return max(0.0, min(low, share)), min(1.0, max(high, share))  # at 0 and 1 sums are rounded

"""Helpers of the tests of processes that load images: made images, a loader, its processes."""

# N batch, C channels, H W space

from __future__ import annotations

import psutil
import torch

from accuracy_booster.data.batches import Loader
from accuracy_booster.data.images import Images
from accuracy_booster.data.transforms import unchanged


class Made(Images):
    """Images that are made by a function of their number."""

    def __init__(self, make, count=64):
        self.make, self.labels = make, torch.zeros(count, dtype=torch.int64)

    def __getitem__(self, index):
        return self.make(index), 0


def grey(index):
    return torch.full((3, 8, 8), index, dtype=torch.uint8)


def loader(make=grey, number=2, **options):
    return Loader(Made(make), unchanged, 4, shuffled=False, workers=number, **options)


def children() -> set[int]:
    return {p.pid for p in psutil.Process().children() if p.status() != psutil.STATUS_ZOMBIE}

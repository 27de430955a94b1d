"""An image with boxes, and batches as values that can be compared."""

from __future__ import annotations

from collections.abc import Iterable

import torch

from accuracy_booster.detection import DetectionBatch


def sample(height: int = 60, width: int = 80) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
    """A picture uint8 [3, height, width] and its target with four boxes."""
    rows = torch.arange(height)[:, None] + torch.arange(width)
    picture = rows.to(torch.uint8).expand(3, -1, -1).contiguous()
    boxes = torch.tensor([[1.0, 2, 31, 22], [40, 10, 80, 60], [5, 30, 25, 55], [0, 0, 80, 60]])
    target = {
        "boxes": boxes,
        "labels": torch.tensor([4, 1, 2, 9]),
        "image_id": torch.tensor([77]),
        "area": torch.tensor([300.0, 1000, 250, 4800]),
        "iscrowd": torch.zeros(4, dtype=torch.int64),
    }
    return picture, target


def comparable(batches: Iterable[DetectionBatch]) -> list[tuple[list, ...]]:
    """Every value of every batch, as lists."""
    return [
        (
            batch.indices.tolist(),
            [i.flatten().tolist() for i in batch.images],
            [i.shape for i in batch.images],
            [{k: v.tolist() for k, v in t.items()} for t in batch.targets],
        )
        for batch in batches
    ]

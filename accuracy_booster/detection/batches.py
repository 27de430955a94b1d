"""Batches of images of several sizes with their boxes."""

# N batch, M boxes of an image, H W space

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import torch

from accuracy_booster.data.shared_memory import joined
from accuracy_booster.detection.images import Target
from accuracy_booster.errors import TrainingStopped

Read = tuple[int, tuple[torch.Tensor, Target] | None, dict[int, str]]
COUNTS = 5  # values of an image in `Packed`: its index, its id, height, width, number of boxes


@dataclass(frozen=True)
class DetectionBatch:
    """A batch of images with their targets.

    Attributes:
        images: uint8 [3, H, W], each of its own size.
        targets: those of `DetectionImages`.
        indices: int64 [N], the indices of the images in their data set.
        unreadable: the images that were skipped, {index: reason}.
    """

    images: list[torch.Tensor]
    targets: list[Target]
    indices: torch.Tensor
    unreadable: dict[int, str] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.images)

    def parts(self, count: int) -> list[DetectionBatch]:
        """The batch in up to `count` parts of equal size (the last may be smaller)."""
        size = max(1, -(-len(self) // count))
        starts = range(0, max(1, len(self)), size)
        spans = [slice(start, start + size) for start in starts]
        return [DetectionBatch(self.images[s], self.targets[s], self.indices[s]) for s in spans]

    def to(self, device: torch.device) -> DetectionBatch:
        """The batch on a device. `indices` stay where they are."""
        return DetectionBatch(
            [image.to(device, non_blocking=True) for image in self.images],
            [
                {name: value.to(device, non_blocking=True) for name, value in target.items()}
                for target in self.targets
            ],
            self.indices,
            self.unreadable,
        )

    def check_trainable(self) -> None:
        """Raise TrainingStopped for a batch without a readable image."""
        if not self.images:
            reason = next(iter(self.unreadable.values()), "it is empty")
            raise TrainingStopped(
                f"none of {len(self.unreadable)} images of a training batch could be read; the "
                f"first that could not: {reason}"
            )


@dataclass(frozen=True)
class Packed:
    """A batch in three tensors, as a worker process of a loader hands it over.

    Attributes:
        pixels: uint8, the images one after the other.
        numbers: int64, `COUNTS` for each image, then the labels and the crowd flags of all boxes.
        boxes: float32, the corners of all boxes, then their areas.
        count: the number of images.
        unreadable: as in `DetectionBatch`.
    """

    pixels: torch.Tensor
    numbers: torch.Tensor
    boxes: torch.Tensor
    count: int
    unreadable: dict[int, str]

    def to(self, device: torch.device) -> DetectionBatch:
        """The batch on a device. Its tensors are views of these three."""
        rows = self.numbers[: COUNTS * self.count].reshape(-1, COUNTS)
        flags = self.numbers[COUNTS * self.count :]
        pixels, flags, floats, ids = (
            value.to(device, non_blocking=True)
            for value in (self.pixels, flags, self.boxes, rows[:, 1])
        )
        total = len(flags) // 2
        labels, crowd = flags[:total], flags[total:]
        boxes, areas = floats[: 4 * total].reshape(-1, 4), floats[4 * total :]
        images, targets = [], []
        pixel = box = 0
        for i, (_, _, height, width, count) in enumerate(rows.tolist()):
            size = 3 * height * width
            images.append(pixels[pixel : pixel + size].reshape(3, height, width))
            own = slice(box, box + count)
            targets.append(
                {
                    "boxes": boxes[own],
                    "labels": labels[own],
                    "image_id": ids[i : i + 1],
                    "area": areas[own],
                    "iscrowd": crowd[own],
                }
            )
            pixel, box = pixel + size, box + count
        return DetectionBatch(images, targets, rows[:, 0].clone(), self.unreadable)


def pack(items: Sequence[Read]) -> Packed:
    """The `collate` function of a loader.

    Args:
        items: (index, (image, target), {index of an unreadable image: reason}) of each item, with
            None in place of (image, target) where no image could be read.
    """
    unreadable: dict[int, str] = {}
    for _, _, found in items:
        unreadable |= found
    read = [(index, *item) for index, item, _ in items if item is not None]
    targets = [target for _, _, target in read]
    rows = [
        torch.tensor([index, int(t["image_id"]), *image.shape[1:], len(t["boxes"])])
        for index, image, t in read
    ]
    integers, floats = torch.empty(0, dtype=torch.int64), torch.empty(0)
    labels, crowd = ([t[name] for t in targets] for name in ("labels", "iscrowd"))
    boxes, areas = [t["boxes"].flatten() for t in targets], [t["area"] for t in targets]
    pixels = [image.flatten() for _, image, _ in read]
    return Packed(
        joined([torch.empty(0, dtype=torch.uint8), *pixels]),
        joined([integers, *rows, *labels, *crowd]),
        joined([floats, *boxes, *areas]),
        len(read),
        unreadable,
    )

"""The batches, the gates and example images of what `open_measured` opened: a run, or a module."""

# N images, C channels, H W space

from __future__ import annotations

import warnings
from collections.abc import Iterable, Iterator

import torch

from accuracy_booster.data import normalise
from accuracy_booster.data.images import UnreadableImage
from accuracy_booster.inspection.batches import Inputs
from accuracy_booster.inspection.gate_statistics import Gates
from accuracy_booster.inspection.gate_weights import repair_and_find
from accuracy_booster.inspection.observing import observe
from accuracy_booster.surgery.wrappers import unwrapped
from accuracy_booster.training.opening_to_measure import Opened


def inputs_of(opened: Opened, images: int | None = None) -> Iterator[Inputs]:
    """The batches of this process's share, normalised, on the network's device.

    Args:
        images: only of the first so many images of the split.

    Raises:
        TrainingStopped: if more images cannot be read than the run's `bad_images` allows.
    """
    loader, data, accelerator = opened.loader, opened.data, opened.accelerator
    unreadable = list(data.unreadable)
    share = {"rank": accelerator.process_index, "world": accelerator.num_processes}
    for batch in loader.batches(0, **share, device=accelerator.device):
        unreadable += batch.unreadable.values()
        opened.check_readable(unreadable)
        count = len(batch.labels)
        if images is not None:
            # a split that is measured is not shuffled, so the first images come first
            count = int((batch.indices < images).sum())
        if count:
            pixels = normalise(batch.images[:count], data.mean, data.std)
            labels, numbers = batch.labels[:count], batch.indices[:count]
            yield Inputs((pixels,), {}, count, labels, numbers)
        if count < len(batch.labels):
            break
    for reason in unreadable:
        warnings.warn(f"left out, {reason}", stacklevel=2)


def gates_of(opened: Opened, images: int | None = None) -> Gates:
    """What every gate of the opened network does on the opened images, or on the first so many.

    Raises:
        ValueError: for a network without gates.
    """
    network, found = unwrapped(opened.network), inputs_of(opened, images)
    total, classes = batch_count(opened, images), opened.data.classes
    with opened.accelerator.autocast():
        return observe(network, repair_and_find(network), found, total=total, classes=classes)


def batch_count(opened: Opened, images: int | None = None) -> int:
    """How many batches `inputs_of` yields in each process, for a progress display."""
    total = len(opened.loader.dataset)
    count = total if images is None else min(images, total)
    return -(-count // (opened.loader.batch_size * opened.accelerator.num_processes))


def read_images(
    opened: Opened, numbers: Iterable[int]
) -> tuple[dict[int, torch.Tensor], dict[int, int]]:
    """Images by their numbers, uint8 [C, H, W] as the network sees them, and their classes.

    Images that cannot be read are left out.
    """
    images: dict[int, torch.Tensor] = {}
    labels: dict[int, int] = {}
    for number in dict.fromkeys(numbers):
        try:
            images[number], labels[number] = opened.loader.dataset[number]
        except UnreadableImage:
            continue
    return images, labels

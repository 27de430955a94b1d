"""Batches that depend only on the seed, the epoch and the position in the epoch.

So a training that is resumed, and any number of processes, see the same images: the order belongs
to the epoch, and an image's augmentation to its number in the epoch. Training, evaluation,
inspection and detection take their batches from a `Loader`.
"""

# N batch, C channels, H W space

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import torch
from torch.utils.data import DataLoader, Dataset

from accuracy_booster.data.augmentation import BatchTransform
from accuracy_booster.data.images import Images, Item, TensorImages, Transformed, UnreadableImage
from accuracy_booster.data.random_streams import IMAGE, ORDER, mix
from accuracy_booster.data.sampling import draw_balanced, repeats
from accuracy_booster.data.shared_memory import check_room, stacked
from accuracy_booster.data.worker_errors import worker_faults
from accuracy_booster.data.workers import begin, end, poll, received
from accuracy_booster.errors import TrainingStopped

TRIES = 100  # unreadable images in a row before the search for a replacement ends


@dataclass(frozen=True)
class Batch:
    """Images uint8 [N, C, H, W], labels [N], and their numbers [N] in the data set.

    `unreadable` lists the images that were left out: {number: reason}.
    """

    images: torch.Tensor
    labels: torch.Tensor
    indices: torch.Tensor
    unreadable: dict[int, str] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.labels)

    @property
    def targets(self) -> torch.Tensor:
        """What a network learns of the images: their labels [N]."""
        return self.labels

    def parts(self, count: int) -> list[Batch]:
        """The batch in up to `count` parts of equal size, in order."""
        split = (value.chunk(count) for value in (self.images, self.labels, self.indices))
        return [Batch(*values) for values in zip(*split, strict=True)]

    def to(self, device: torch.device) -> Batch:
        """The batch with its images and labels on a device. `indices` stays where it is."""
        images, labels = (v.to(device, non_blocking=True) for v in (self.images, self.labels))
        return Batch(images, labels, self.indices, self.unreadable)

    def check_trainable(self) -> None:
        """Raise TrainingStopped if fewer than two images of a training batch could be read."""
        if (count := len(self.labels)) < 2:
            reason = next(iter(self.unreadable.values()), "it is the last one")
            none = f"none of {len(self.unreadable)} images" if not count else "only one image"
            raise TrainingStopped(
                f"{none} of a training batch could be read, and a batch norm needs two; the "
                f"first that could not: {reason}"
            )


class Loader:
    """The batches of a split. Each iteration gives (images, targets) of the next epoch.

    All training batches (`shuffled`) have the same size, and the rest of an epoch is dropped. A
    gate's batch norm sees one value per image, so a small last batch would give it noise. An
    unreadable training image is replaced by the next one in the data set. An unreadable test image
    is left out.

    Args:
        images: the data set.
        transform: changes one image, uint8 [C, *, *] -> uint8 [C, H, W]. If it is random, it draws
            from torch's global generator, which is seeded for each image of a shuffled split.
        batch_transform: does the same to a batch on the device, `(images, numbers, seed, epoch)`.
            It is used for images in memory; None where only `transform` will do.
        shape: (C, H, W) of an image in a batch, if it is known. It tells how much shared memory the
            processes need.
        balanced: an epoch draws as many images as there are, with replacement, so that each class
            appears equally often. What follows of the order and the augmentation holds as well.
        collate: makes a batch of the items that `_Keyed` gives; by default a `Batch`.
    """

    def __init__(
        self,
        images: Images,
        transform: Callable[[Any], Any],
        batch_size: int,
        *,
        shuffled: bool,
        seed: int = 0,
        workers: int = 0,
        batch_transform: BatchTransform | None = None,
        shape: tuple[int, int, int] | None = None,
        balanced: bool = False,
        collate: Callable[[list[Any]], Any] | None = None,
    ):
        self.dataset = Transformed(images, transform)
        self.batch_size = batch_size
        self.shuffled, self.seed, self.workers = shuffled, seed, workers
        self.batch_transform = batch_transform if isinstance(images, TensorImages) else None
        self.epoch = 0
        self._resident: tuple[torch.Tensor, torch.Tensor] | None = None
        self.shape, self.balanced = shape, balanced
        self.collate = collate or _collate
        self._idle: DataLoader | None = None  # its processes wait for the next pass

    def __del__(self) -> None:
        if (idle := getattr(self, "_idle", None)) is not None:
            end(idle)

    def __len__(self) -> int:
        """The number of batches, of all processes together."""
        count = len(self.dataset)
        return count // self.batch_size if self.shuffled else -(-count // self.batch_size)

    def __iter__(self) -> Iterator[tuple[Any, Any]]:
        epoch, self.epoch = self.epoch, self.epoch + 1
        for batch in self.batches(epoch):
            for reason in batch.unreadable.values():
                warnings.warn(f"skipped: {reason}", stacklevel=2)
            if len(batch):
                yield batch.images, batch.targets

    def order(self, epoch: int) -> torch.Tensor:
        """The numbers of the images in the order of an epoch.

        Where images are drawn with replacement, the number of images is added to an image's number
        as often as the epoch had it before: number % images is the image, and all numbers differ.
        """
        count = len(self.dataset)
        if not self.shuffled:
            return torch.arange(count)
        generator = torch.Generator().manual_seed(mix(self.seed, epoch, ORDER))
        if not self.balanced:
            return torch.randperm(count, generator=generator)
        drawn = draw_balanced(self.dataset.images.labels, generator)
        return drawn + count * repeats(drawn)

    def batches(
        self,
        epoch: int,
        start: int = 0,
        *,
        rank: int = 0,
        world: int = 1,
        device: torch.device | str = "cpu",
    ) -> Iterator[Batch]:
        """The batches of an epoch from number `start` on, on the device.

        Of `world` processes, the one with this `rank` gets its share. A training batch is divided
        among them. Of another split each gets every `world`-th image, in batches of full size.
        """
        order = self.order(epoch)
        if self.shuffled:
            share = self.batch_size // world
            offsets = range(start * self.batch_size, len(self) * self.batch_size, self.batch_size)
            chosen = [order[o + rank * share : o + (rank + 1) * share] for o in offsets]
        else:
            mine = order[rank::world]
            chosen = [*mine.split(self.batch_size)][start:] if len(mine) else []
        if self.batch_transform is not None:
            yield from self._from_memory(self.batch_transform, chosen, epoch, torch.device(device))
        else:
            yield from self._one_by_one(chosen, epoch, torch.device(device))

    def _from_memory(
        self,
        transform: BatchTransform,
        chosen: list[torch.Tensor],
        epoch: int,
        device: torch.device,
    ) -> Iterator[Batch]:
        images = self.dataset.images
        assert isinstance(images, TensorImages)
        if self._resident is None or self._resident[0].device != device:
            self._resident = images.images.to(device), images.labels.to(device)
        pixels, labels = self._resident
        for indices in chosen:
            indices = indices.to(device)
            rows = indices % len(labels)
            picked = transform(pixels[rows], indices, self.seed, epoch)
            yield Batch(picked, labels[rows], rows)

    def _one_by_one(
        self, chosen: list[torch.Tensor], epoch: int, device: torch.device
    ) -> Iterator[Batch]:
        loader, self._idle = self._idle or self._start(chosen), None
        # The sampler is a list, so that its content can be exchanged for each pass.
        loader.batch_sampler[:] = [  # type: ignore[index]
            [(epoch, i) for i in indices.tolist()] for indices in chosen
        ]
        try:
            with worker_faults():
                for batch in received(loader):
                    yield batch.to(device)
            self._idle = loader
        finally:
            if self._idle is not loader:  # a pass was left: the next would begin with its rest
                end(loader)

    def _start(self, chosen: list[torch.Tensor]) -> DataLoader:
        if self.workers and self.shape is not None:
            images = max(map(len, chosen), default=0)
            check_room(self.workers, len(chosen), images, math.prod(self.shape))
        return _Processes(
            _Keyed(self.dataset, self.seed if self.shuffled else None),
            batch_sampler=[],
            collate_fn=self.collate,
            worker_init_fn=begin,
            num_workers=self.workers,
            persistent_workers=self.workers > 0,
            timeout=poll() if self.workers else 0,
            # torch draws a seed for the processes; it must not come from the global generator
            generator=torch.Generator(),
        )


class _Processes(DataLoader[Any]):
    """torch's loader without its warning of many processes, which comes with each loader and pass.

    `training.advice` says it once.
    """

    def check_worker_number_rationality(self) -> None:
        return None


class _Keyed(Dataset[Any]):
    """Items by (epoch, number of an image): (number, item or None, {number: why it is unreadable}).

    With a seed, an unreadable image is replaced by the next one; the number is then that one's.
    """

    def __init__(self, dataset: Dataset[Item], seed: int | None):
        self.dataset, self.seed = dataset, seed

    def __getitem__(self, key: tuple[int, int]) -> tuple[int, Item | None, dict[int, str]]:
        epoch, first = key  # `Loader.order` explains numbers from the count of images on
        # every data set of ours has a length, `Dataset` need not
        count = len(self.dataset)  # type: ignore[arg-type]
        unreadable: dict[int, str] = {}
        for step in range(min(count, TRIES)):
            index = (first + step) % count
            try:
                if self.seed is None:
                    return index, self.dataset[index], unreadable
                with torch.random.fork_rng(devices=[]):
                    torch.manual_seed(mix(self.seed, epoch, first, IMAGE))
                    return index, self.dataset[index], unreadable
            except UnreadableImage as e:
                unreadable[index] = str(e)
                if self.seed is None:
                    break
        return first % count, None, unreadable


def _collate(items: list[tuple[int, Item | None, dict[int, str]]]) -> Batch:
    unreadable: dict[int, str] = {}
    for _, _, found in items:
        unreadable |= found
    read = [(index, *item) for index, item, _ in items if item is not None]
    if not read:
        return Batch(torch.empty(0), torch.empty(0), torch.empty(0), unreadable)
    indices, images, labels = zip(*read, strict=True)
    classes, numbers = (stacked([torch.tensor(n) for n in row]) for row in (labels, indices))
    return Batch(stacked(images), classes, numbers, unreadable)

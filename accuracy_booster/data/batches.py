"""Batches that are a function of the seed, the epoch and the place in it, and of nothing else.

So a training goes on where it was, and any number of processes see the same images: the order
belongs to the epoch, the augmentation of an image to its number in it.
"""

# N batch, C channels, H W space

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch.utils.data import DataLoader, Dataset

from accuracy_booster.data.images import Images, Item, TensorImages, Transformed, UnreadableImage
from accuracy_booster.data.random_streams import integers, mix
from accuracy_booster.data.workers import (
    begin,
    check_room,
    end,
    poll,
    received,
    stacked,
    worker_faults,
)
from accuracy_booster.errors import TrainingStopped

ORDER, TOP, LEFT, MIRROR, IMAGE = range(5)  # what a random number is drawn for
TRIES = 100  # unreadable images in a row
Whole = Callable[..., torch.Tensor]  # (images, their numbers, *keys) -> images


@dataclass(frozen=True)
class Batch:
    """Images uint8 [N, C, H, W], labels [N], and their numbers [N] in the data set.

    `unreadable` says what was skipped: {number: reason}.
    """

    images: torch.Tensor
    labels: torch.Tensor
    indices: torch.Tensor
    unreadable: dict[int, str] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.labels)

    @property
    def targets(self) -> torch.Tensor:
        """What a network learns of the images: their labels."""
        return self.labels

    def parts(self, count: int) -> list[Batch]:
        """The batch in up to `count` parts of equal size, one after the other."""
        split = (value.chunk(count) for value in (self.images, self.labels, self.indices))
        return [Batch(*values) for values in zip(*split, strict=True)]

    def to(self, device: torch.device) -> Batch:
        """The batch on a device; the numbers of its images stay where they are."""
        images, labels = (v.to(device, non_blocking=True) for v in (self.images, self.labels))
        return Batch(images, labels, self.indices, self.unreadable)

    def check_trainable(self) -> None:
        """Raise TrainingStopped for a training batch too many of whose images cannot be read."""
        if (count := len(self.labels)) < 2:
            reason = next(iter(self.unreadable.values()), "it is the last one")
            none = f"none of {len(self.unreadable)} images" if not count else "only one image"
            raise TrainingStopped(
                f"{none} of a training batch could be read, and a batch norm needs two; the "
                f"first that could not: {reason}"
            )


@dataclass(frozen=True)
class Crop:
    """Random crops of images padded by `pad` (top and left), mirrored or not, a batch at a time."""

    pad: tuple[int, int]
    mirror: bool

    def __call__(self, images: torch.Tensor, samples: torch.Tensor, *keys: int) -> torch.Tensor:
        """images[N, C, H, W] -> the same shape; `samples` are their numbers."""
        (top, left), (height, width) = self.pad, images.shape[2:]
        windows = F.pad(images, (left, left, top, top)).unfold(2, height, 1).unfold(3, width, 1)
        y, x = (integers(2 * p + 1, samples, *keys, k) for p, k in ((top, TOP), (left, LEFT)))
        cropped = windows[torch.arange(len(images), device=images.device), :, y, x]
        if not self.mirror:
            return cropped
        flip = integers(2, samples, *keys, MIRROR).bool()
        return torch.where(flip[:, None, None, None], cropped.flip(3), cropped)


class Loader:
    """The batches of a split. Iterating gives (images, targets) of an epoch, and then of the next.

    Training batches (`shuffled`) are never ragged: a gate's batch norm sees one value per image,
    and a batch of few is noise. An unreadable training image is replaced by the next one in the
    data set, an unreadable test image is left out.

    Args:
        images: the data set.
        transform: of one image, uint8 [C, *, *] -> uint8 [C, H, W]; random ones draw from torch's
            generator, which is seeded for each image.
        whole: the same for a batch at a time, on the device, or None where it cannot be done so;
            it is used for images that are in memory.
        shape: (C, H, W) of an image of a batch, where it is known: it tells how much shared memory
            the workers need.
        collate: makes a batch of items, as `_Keyed` gives them; by default a `Batch`.
    """

    def __init__(
        self,
        images: Images,
        transform: Any,
        batch_size: int,
        *,
        shuffled: bool,
        seed: int = 0,
        workers: int = 0,
        whole: Whole | None = None,
        shape: tuple[int, int, int] | None = None,
        collate: Callable[[list[Any]], Any] | None = None,
    ):
        self.dataset = Transformed(images, transform)
        self.batch_size = batch_size
        self.shuffled, self.seed, self.workers = shuffled, seed, workers
        self.whole = whole if isinstance(images, TensorImages) else None
        self.epoch = 0
        self._resident: tuple[torch.Tensor, torch.Tensor] | None = None
        self.shape = shape
        self.collate = collate or _collate
        self._idle: DataLoader | None = None  # its workers wait for the next pass

    def __del__(self) -> None:
        if (idle := getattr(self, "_idle", None)) is not None:
            end(idle)

    def __len__(self) -> int:
        """Batches of all processes together."""
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
        """The numbers of the images in the order of an epoch."""
        count = len(self.dataset)
        if not self.shuffled:
            return torch.arange(count)
        generator = torch.Generator().manual_seed(mix(self.seed, epoch, ORDER))
        return torch.randperm(count, generator=generator)

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

        Of several processes each gets its share: of a training batch a `world`-th, of the other
        splits every `world`-th image, in batches of the same size.
        """
        order = self.order(epoch)
        if self.shuffled:
            share = self.batch_size // world
            offsets = range(start * self.batch_size, len(self) * self.batch_size, self.batch_size)
            chosen = [order[o + rank * share : o + (rank + 1) * share] for o in offsets]
        else:
            mine = order[rank::world]
            chosen = [*mine.split(self.batch_size)][start:] if len(mine) else []
        if self.whole is not None:
            yield from self._from_memory(chosen, epoch, torch.device(device))
        else:
            yield from self._from_disk(chosen, epoch, torch.device(device))

    def _from_memory(
        self, chosen: list[torch.Tensor], epoch: int, device: torch.device
    ) -> Iterator[Batch]:
        images = self.dataset.images
        assert isinstance(images, TensorImages)
        assert self.whole is not None
        if self._resident is None or self._resident[0].device != device:
            self._resident = images.images.to(device), images.labels.to(device)
        pixels, labels = self._resident
        for indices in chosen:
            indices = indices.to(device)
            picked = self.whole(pixels[indices], indices, self.seed, epoch)
            yield Batch(picked, labels[indices], indices)

    def _from_disk(
        self, chosen: list[torch.Tensor], epoch: int, device: torch.device
    ) -> Iterator[Batch]:
        loader, self._idle = self._idle or self._start(chosen), None
        # filled anew for each pass
        loader.batch_sampler[:] = [  # type: ignore[index]
            [(epoch, i) for i in indices.tolist()] for indices in chosen
        ]
        try:
            with worker_faults():
                for batch in received(loader):
                    yield batch.to(device)
            self._idle = loader
        finally:
            if self._idle is not loader:  # the rest of a pass that was left would come first
                end(loader)

    def _start(self, chosen: list[torch.Tensor]) -> DataLoader:
        if self.workers and self.shape is not None:
            images = max(map(len, chosen), default=0)
            check_room(self.workers, len(chosen), images, math.prod(self.shape))
        return DataLoader(
            _Keyed(self.dataset, self.seed if self.shuffled else None),
            batch_sampler=[],
            collate_fn=self.collate,
            worker_init_fn=begin,
            num_workers=self.workers,
            persistent_workers=self.workers > 0,
            timeout=poll() if self.workers else 0,
            # a process of its own seed: what it draws is thrown away
            generator=torch.Generator(),
        )


def as_is(images: torch.Tensor, samples: torch.Tensor, *keys: int) -> torch.Tensor:
    """No augmentation, a batch at a time."""
    return images


class _Keyed(Dataset[Any]):
    """Items by (epoch, index), with what could not be read on the way to them."""

    def __init__(self, dataset: Dataset[Item], seed: int | None):
        self.dataset, self.seed = dataset, seed

    def __getitem__(self, key: tuple[int, int]) -> tuple[int, Item | None, dict[int, str]]:
        epoch, first = key
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
        return first, None, unreadable


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


def crop(size: tuple[int, int], mirror: bool) -> Crop:
    """Padded by an eighth of the size: 4 pixels for CIFAR's 32."""
    return Crop((max(1, round(size[0] / 8)), max(1, round(size[1] / 8))), mirror)


# augmentations that are done a batch at a time: from an image size
VECTORISED: dict[str, Callable[[tuple[int, int]], Whole]] = {
    "none": lambda size: as_is,
    "crop": partial(crop, mirror=False),
    "crop_flip": partial(crop, mirror=True),
}

"""Turn the batches of any loader into the arguments of a network and the classes of the images."""

# N images, K classes, H W space

from __future__ import annotations

import inspect
import warnings
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import nn
from torch.utils.data import DistributedSampler

from accuracy_booster.data.batches import Loader
from accuracy_booster.detection.batches import DetectionBatch
from accuracy_booster.errors import shown
from accuracy_booster.surgery.inputs import Example, described, map_tensors

# names in the batches of loaders that yield dicts
LABELS = ("labels", "label", "targets", "target", "cls")
IMAGES = ("pixel_values", "image", "images", "img", "x", "inputs", "input")


@dataclass(frozen=True)
class Inputs:
    """One batch, as a network takes it.

    Attributes:
        args, kwargs: of the network's forward.
        count: N, the number of images.
        labels: [N], int64, the classes of the images; None where the loader does not tell them.
        numbers: [N], the places of the images in the order of the loader.
        of_sizes: the images are a list, each of its own size, as detectors take them.
    """

    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    count: int
    labels: torch.Tensor | None
    numbers: torch.Tensor
    of_sizes: bool = False


def inputs_from(
    loader: Iterable[Any],
    model: nn.Module,
    example: Example | None = None,
    limit: int | None = None,
) -> Iterator[Inputs]:
    """The batches of a loader, as the network takes them.

    Args:
        loader: yields images, (images, labels), or a dict such as {"pixel_values": ..., "labels":
            ...}. A detector's loader yields lists of images [3, H, W] and of targets; uint8 images
            are divided by 255, since torchvision's detectors take numbers from 0 to 1.
        example: the structure of the inputs of a network that takes several. A tuple of n says
            that the first n items of a batch are inputs; a dict names the inputs in a dict.
        limit: stop after so many images, of all processes together.

    Raises:
        ValueError: for a batch that does not fit, or images that are not floating-point numbers.
    """
    if isinstance(loader, torch.Tensor):
        raise ValueError(
            f"the loader is one tensor, {list(loader.shape)}; give batches, such as [images] or "
            "[(images, labels)]"
        )
    if not isinstance(loader, Iterable):
        raise ValueError(f"loader={shown(loader)} cannot be iterated; give a DataLoader or a list")
    like = next((p for p in model.parameters() if p.is_floating_point()), torch.empty(0))
    rank, world, total = _share(loader)
    ends = [end for end in (limit, total) if end is not None]
    limit = max(0, -((rank - min(ends)) // world)) if ends else None  # of this process's images
    seen = 0
    for batch in _iterated(loader, rank, world) if limit != 0 else ():
        of_sizes = example is None and _is_of_sizes(batch)
        if of_sizes:
            args, kwargs, labels = _split_of_sizes(batch)
            count = len(args[0])
        else:
            args, kwargs, labels = _split(batch, model, example)
            count = _length(args, kwargs)
        classes = _classes(labels, count)
        if labels is not None and classes is None and not seen:
            warnings.warn(
                f"the loader's labels, {described(labels)}, are no class numbers [{count}] or "
                f"shares [{count}, K] for its {count} images: nothing is said of classes",
                stacklevel=2,
            )
        if limit is not None and seen + count > limit:
            count = limit - seen
            if of_sizes:
                args = (args[0][:count],)
            else:
                args, kwargs = map_tensors(partial(_shortened, count), (args, kwargs))
            classes = None if classes is None else classes[:count]
        if count:
            args, kwargs = map_tensors(lambda x: _moved(x, like), (args, kwargs))
            numbers = torch.arange(seen, seen + count) * world + rank
            yield Inputs(args, kwargs, count, classes, numbers, of_sizes)
        seen += count
        if limit is not None and seen >= limit:
            return


def _iterated(loader: Iterable[Any], rank: int, world: int) -> Iterator[Any]:
    """The batches of a loader. Of one of our own: this process's share of its first epoch."""
    if not isinstance(loader, Loader):
        yield from loader
        return
    for batch in loader.batches(0, rank=rank, world=world):
        for reason in batch.unreadable.values():
            warnings.warn(f"left out, {reason}", stacklevel=3)
        if len(batch):
            yield batch.images, batch.targets


def _is_of_sizes(batch: Any) -> bool:
    """Whether it is a batch of a detector: a list of images [3, H, W], and perhaps of targets."""
    if isinstance(batch, DetectionBatch):
        return True
    images = batch[0] if isinstance(batch, (tuple, list)) and batch else None
    return (
        isinstance(images, (tuple, list))
        and len(images) > 0
        and all(isinstance(image, torch.Tensor) and image.ndim == 3 for image in images)
    )


def _split_of_sizes(batch: Any) -> tuple[tuple[Any, ...], dict[str, Any], Any]:
    """(args, kwargs, labels) of a detector's batch. Targets that are dicts are no labels."""
    images, *rest = (batch.images,) if isinstance(batch, DetectionBatch) else batch
    floats = [image.float() / 255 if image.dtype is torch.uint8 else image for image in images]
    labels = rest[0] if rest else None
    if isinstance(labels, (tuple, list)) and any(isinstance(x, Mapping) for x in labels):
        labels = None
    return (floats,), {}, labels


def _share(loader: Any) -> tuple[int, int, int | None]:
    """(rank, world, images): this process gets every world-th image, from number `rank` on.

    `images` is how many images there are, without repetitions; None where the loader does not tell.
    A DistributedSampler repeats some, to give every process the same number.
    """
    for holder in (loader, getattr(loader, "batch_sampler", None)):
        sampler = getattr(holder, "sampler", None)
        if isinstance(sampler, DistributedSampler):
            return sampler.rank, sampler.num_replicas, len(sampler.dataset)  # type: ignore[arg-type]
    distributed = torch.distributed
    if distributed.is_available() and distributed.is_initialized():
        return distributed.get_rank(), distributed.get_world_size(), None
    return 0, 1, None


def _split(
    batch: Any, model: nn.Module, example: Example | None
) -> tuple[tuple[Any, ...], dict[str, Any], Any]:
    """(args, kwargs, labels) of one batch."""
    if isinstance(example, (tuple, list)):
        items = tuple(batch) if isinstance(batch, (tuple, list)) else (batch,)
        if len(items) < len(example):
            raise ValueError(
                f"a batch of the loader has {len(items)} items, and example= has {len(example)} "
                "inputs; let the loader yield the inputs, and then the labels if there are any"
            )
        rest = items[len(example) :]
        return items[: len(example)], {}, rest[0] if rest else None
    if isinstance(batch, Mapping):
        return _split_names(batch, model, example)
    if isinstance(example, dict):
        raise ValueError(
            f"example= names inputs, and a batch of the loader is {described(batch)}; let the "
            "loader yield dicts"
        )
    if isinstance(batch, torch.Tensor):
        return (batch,), {}, None
    if isinstance(batch, (tuple, list)) and batch and isinstance(batch[0], torch.Tensor):
        return (batch[0],), {}, batch[1] if len(batch) > 1 else None
    raise ValueError(
        f"a batch of the loader is {described(batch)}; it must be tensors: images [N, C, ...], "
        "(images, labels), or a dict; for several inputs give their structure as example="
    )


def _split_names(
    batch: Mapping[str, Any], model: nn.Module, example: Example | None
) -> tuple[tuple[Any, ...], dict[str, Any], Any]:
    labels = next((batch[name] for name in LABELS if name in batch), None)
    if isinstance(example, dict):
        if missing := [name for name in example if name not in batch]:
            raise ValueError(
                f"example= names {missing[0]!r}, which a batch of the loader lacks; it has "
                f"{', '.join(map(str, batch))}"
            )
        return (), {name: batch[name] for name in example}, labels
    taken = set(inspect.signature(model.forward).parameters) - set(LABELS)
    kwargs = {n: v for n, v in batch.items() if n in taken and isinstance(v, torch.Tensor)}
    if kwargs:
        return (), kwargs, labels
    for name in IMAGES:
        if isinstance(batch.get(name), torch.Tensor):
            return (batch[name],), {}, labels
    raise ValueError(
        f"which of {', '.join(map(str, batch))} are the network's inputs? Name them as "
        "example={'name': tensor, ...}"
    )


def _length(args: tuple[Any, ...], kwargs: dict[str, Any]) -> int:
    """N: the length of the first tensor that has dimensions."""
    found: list[int] = []
    map_tensors(lambda x: found.append(len(x)) if x.ndim else None, (args, kwargs))
    if not found:
        raise ValueError("a batch of the loader has no tensor [N, ...]")
    return found[0]


def _shortened(count: int, x: torch.Tensor) -> torch.Tensor:
    return x[:count] if x.ndim else x


def _moved(x: torch.Tensor, like: torch.Tensor) -> torch.Tensor:
    whole = not (x.is_floating_point() or x.is_complex())
    if (x.dtype is torch.uint8 and x.ndim >= 3) or (whole and x.ndim >= 4):
        raise ValueError(
            f"the loader yields images of {str(x.dtype).removeprefix('torch.')}, {list(x.shape)}; "
            "let it yield them as the network takes them, such as ((x.float() / 255, y) for x, y "
            "in loader)"
        )
    dtype = like.dtype if x.is_floating_point() and like.is_floating_point() else x.dtype
    return x.to(device=like.device, dtype=dtype)


def _classes(labels: Any, count: int) -> torch.Tensor | None:
    """labels [N], or [N, K] of one-hot or mixed labels -> classes [N]; None for anything else."""
    if isinstance(labels, (list, tuple)) and all(isinstance(x, int) for x in labels):
        labels = torch.tensor(labels)
    if not isinstance(labels, torch.Tensor) or not labels.ndim or len(labels) != count:
        return None
    if labels.ndim == 2 and labels.shape[1] > 1 and not labels.is_complex():
        shares = labels.double()  # an image of several classes, each with a 1, has no one class
        is_one = bool((shares >= 0).all()) and bool(((shares.sum(1) - 1).abs() < 0.01).all())
        return shares.argmax(1) if is_one else None
    labels = labels.flatten()
    if len(labels) != count or labels.is_complex() or labels.dtype is torch.bool:
        return None
    return None if labels.is_floating_point() else labels.long()

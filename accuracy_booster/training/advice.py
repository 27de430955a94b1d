"""What a colleague would say about the data and the settings of a training, before it begins.

Each function gives lines for the terminal, and none where all is well. `train`, `train --dry_run`
and `compare` print them once.
"""

from __future__ import annotations

import math
import os
from collections.abc import Iterator, Sequence

from accuracy_booster.data import Data
from accuracy_booster.data.choices import SMALL
from accuracy_booster.data.cores import usable_cores
from accuracy_booster.training.train_config import TrainConfig

FEW_STEPS = 100  # of a whole training: fewer change little
FEW_AN_EPOCH = 4  # fewer steps in an epoch are a word worth, where all epochs have few as well
ENOUGH_STEPS = 1000  # of a whole training, whatever an epoch has
STEPS_ADVISED = 5  # in an epoch, with the batch size that is advised
LEAST_BATCH = 16  # that is advised: the norm of a gate warns of fewer
DROPPED = 0.05  # the share of an epoch whose loss is told
FEW_IMAGES = 2  # of a class, from which nothing can be learned
UNBALANCED = 10  # times as many images in the largest class as in the smallest
FEW_TESTED = 100  # test images: one of fewer is more than one point of accuracy
LARGE_RATES = {"sgd": 0.05, "adamw": 0.003}  # for trained weights
NAMED = 3  # classes that a line names


def advice(config: TrainConfig, data: Data, *, trained: bool = False) -> list[str]:
    """The lines about a training.

    Args:
        config: completed from the data.
        data: with the loaders "train" and "test".
        trained: the network comes with trained weights, as a module that the caller gives does.
    """
    return [
        *_on_steps(config, data),
        *_on_classes(config, data),
        *_on_test_images(data),
        *_on_rate(config, trained or config.pretrained or config.weights is not None),
        *_on_crops(config),
        *_on_workers(config, data),
    ]


def _on_steps(config: TrainConfig, data: Data) -> Iterator[str]:
    """Few steps, and training images that are left out of each epoch."""
    loader = data.loaders["train"]
    images, batch, epochs = len(loader.dataset), loader.batch_size, config.epochs
    steps = images // batch
    parts = config.accumulate * int(os.environ.get("WORLD_SIZE", "1"))
    better = _smaller_batch(images, batch, parts)
    few_an_epoch = better < batch and steps < FEW_AN_EPOCH and steps * epochs < ENOUGH_STEPS
    if few := steps * epochs < FEW_STEPS or few_an_epoch:
        longer = max(epochs, math.ceil(2 * FEW_STEPS / (images // better)))
        remedy = [f"--batch_size {better}"] * (better < batch)
        remedy += [f"--epochs {longer}"] * (longer > epochs)
        yield (
            f"{images:,} training images in batches of {batch} are {_steps(steps)} an epoch and "
            f"{_steps(steps * epochs)} in all, too few to learn much: "
            f"{' with '.join(remedy)} makes {images // better * longer:,} steps"
        )
    dropped = images % batch
    if dropped > DROPPED * images:
        fitting = _fitting_batch(images, batch, parts)
        left = images % fitting
        uses = "uses all" if not left else f"leaves out {left}"
        remedy_ = f": --batch_size {fitting} {uses}" if left < dropped and not few else ""
        yield (
            f"{dropped} of {images:,} training images are left out of each epoch (others each "
            f"time), since all batches have {batch}{remedy_}"
        )


def _steps(count: int) -> str:
    return f"{count:,} step{'s'[: count != 1]}"


def _smaller_batch(images: int, batch: int, parts: int) -> int:
    """A batch size with `STEPS_ADVISED` steps an epoch: a power of two times `parts`."""
    size = parts
    while size * 2 < batch and images // (size * 2) >= STEPS_ADVISED:
        size *= 2
    return min(batch, max(size, -(-LEAST_BATCH // parts) * parts))


def _fitting_batch(images: int, batch: int, parts: int) -> int:
    """The batch size from half of `batch` on that leaves out the fewest images."""
    sizes = range(batch, max(1, batch // 2), -1)
    fitting = [size for size in sizes if size % parts == 0 and size >= 2 * parts]
    return min(fitting or [batch], key=lambda size: images % size)


def _on_classes(config: TrainConfig, data: Data) -> Iterator[str]:
    """Classes without images, with few, and of very different sizes."""
    labels = data.loaders["train"].dataset.images.labels
    counts = labels.bincount(minlength=len(data.classes)).tolist()
    files = data.encoded.get("train")
    told = set() if files is None or files.names is None else _empty(files.labels, data)
    bare = [name for name, n in zip(data.classes, counts, strict=True) if not n]
    if bare := [name for name in bare if name not in told]:  # `folders` has warned of its own
        yield (
            f"{_listed('class', bare)} no training image, and the network gets an output for each: "
            "add images, or leave the class out"
        )
    scarce = [name for name, n in zip(data.classes, counts, strict=True) if 0 < n <= FEW_IMAGES]
    if scarce:
        yield (
            f"{_listed('class', scarce)} no more than {FEW_IMAGES} training images, too few to "
            "learn from: add images, or leave the class out"
        )
    present = [(n, name) for n, name in zip(counts, data.classes, strict=True) if n]
    (least, rare), (most, common) = min(present), max(present)
    balanced = config.class_weights != "none" or config.sampling != "none"
    if config.class_weights != "none" and config.sampling != "none":
        yield (
            f"class_weights={config.class_weights} and sampling={config.sampling} both correct for "
            "the sizes of the classes, so the rare ones count too much: give one of them"
        )
    if most >= UNBALANCED * least and not balanced:
        yield (
            f"the classes are unbalanced: {common} has {most:,} training images and {rare} "
            f"{least:,}, {most / least:.0f} times fewer; --class_weights balanced or --sampling "
            "balanced lets them count alike"
        )


def _empty(labels: object, data: Data) -> set[str]:
    """The classes that have no image among the labels."""
    counts = labels.bincount(minlength=len(data.classes))  # type: ignore[attr-defined]
    return {name for name, n in zip(data.classes, counts.tolist(), strict=True) if not n}


def _listed(what: str, names: Sequence[str]) -> str:
    """ "class cat has", or "3 classes (cat, dog, ...) have"."""
    if len(names) == 1:
        return f"{what} {names[0]} has"
    shown = ", ".join(names[:NAMED]) + ", ..." * (len(names) > NAMED)
    return f"{len(names):,} {what}es ({shown}) have"


def _on_test_images(data: Data) -> Iterator[str]:
    """A test split that is small, or that lacks classes."""
    labels = data.loaders["test"].dataset.images.labels
    if (count := len(labels)) < FEW_TESTED:
        points = f"{100 / count:.3g}"
        yield (
            f"the test split has {count} image{'s'[: count != 1]}: one of them is {points} "
            f"point{'s'[: points != '1']} of top-1, so small differences mean nothing"
        )
    trained = data.loaders["train"].dataset.images.labels
    lacking = _empty(labels, data) - _empty(trained, data)
    if names := [name for name in data.classes if name in lacking]:
        yield f"{_listed('class', names)} no test image: nothing will tell how well it is learned"


def _on_rate(config: TrainConfig, trained: bool) -> Iterator[str]:
    """A learning rate that undoes trained weights."""
    most = LARGE_RATES.get(config.optimizer)
    if trained and config.freeze == "none" and most is not None and config.lr >= most:
        yield (
            f"lr={config.lr:g} is large for trained weights and can undo them in the first steps: "
            f"try --lr {most / 5:g}"
        )


def _on_crops(config: TrainConfig) -> Iterator[str]:
    """Random parts of photographs at the size of a small network's input."""
    height, width = config.input_size[1:]
    if config.augment == "resized_crop" and max(height, width) <= SMALL:
        yield (
            f"at {height} x {width} pixels little is left of a photograph of which a random part "
            "is trained and the centre is measured; --augment none --crop_pct 1 --crop_mode squash "
            "shows the network whole images"
        )


def _on_workers(config: TrainConfig, data: Data) -> Iterator[str]:
    """More processes that load images than the machine has cores."""
    cores = usable_cores()
    in_memory = data.loaders["train"].batch_transform is not None
    if config.workers > cores and not in_memory:
        yield (
            f"{config.workers} processes load images, and {cores} core{'s'[: cores != 1]} can be "
            f"used: --workers {cores} may be faster"
        )

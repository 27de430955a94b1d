"""From a name or a path to loaders: the one way in to data."""

# N batch, C channels, H W space

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch

from accuracy_booster.data import sources
from accuracy_booster.data import splits as parts
from accuracy_booster.data.batches import VECTORISED, Loader, as_is
from accuracy_booster.data.choices import AUGMENTS, CROP_MODES, INTERPOLATIONS
from accuracy_booster.data.class_names import translate
from accuracy_booster.data.image_files import same_name
from accuracy_booster.data.images import (
    EncodedImages,
    Images,
    Subset,
    TensorImages,
    in_memory,
    native_size,
)
from accuracy_booster.data.marks import difference, marks_of
from accuracy_booster.data.transforms import MOST, eval_transform, train_transform, unchanged
from accuracy_booster.errors import unknown
from accuracy_booster.models.pretrained import Preprocessing

Stats = tuple[float, ...]
IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
LARGE = 224  # pixels: what large images are cropped to unless an image size is given


@dataclass(frozen=True)
class Data:
    """Loaders of (uint8 images [N, C, H, W], labels [N]), and what a network must know of them."""

    name: str
    classes: tuple[str, ...]
    in_chans: int
    image_size: tuple[int, int]
    mean: Stats
    std: Stats
    augment: str
    interpolation: str | None
    crop_pct: float | None
    crop_mode: str | None
    unreadable: list[str]  # images that were left out when the data were read into memory
    marks: dict[str, dict[str, Any]]  # of each split that was read (`marks_of`)
    encoded: dict[str, EncodedImages] = field(repr=False)  # of each split that was read from files
    loaders: dict[str, Loader] = field(repr=False)
    make_loaders: Callable[[int], dict[str, Loader]] = field(repr=False)

    def difference(self, split: str, known: Any) -> str:
        """How a split differs from the one whose marks are known, or ""."""
        return difference(self.encoded.get(split), self.marks[split], known)

    def reseed(self, seed: int) -> Data:
        """The same images in new loaders, as `load_data(..., seed=seed)` would give them."""
        return replace(self, loaders=self.make_loaders(seed))

    def check_trainable(self) -> None:
        """Raise ValueError if there are fewer than two training images."""
        images = self.loaders["train"].dataset.images
        if (count := len(images)) < 2:
            lost = len(self.unreadable)
            more = f" ({lost} more cannot be read; the first: {self.unreadable[0]})" if lost else ""
            raise ValueError(
                f"the train split of {self.name} has {count} image{more}, and a batch norm needs "
                "two; add images"
            )

    @property
    def input_size(self) -> tuple[int, int, int]:
        return (self.in_chans, *self.image_size)


def load_data(
    data: str | Path,
    *,
    splits: Sequence[str] = ("train", "test"),
    batch_size: int = 128,
    eval_batch_size: int = 256,
    image_size: int | tuple[int, int] | None = None,
    augment: str = "auto",
    validation: float = 0.0,
    mean: Stats | None = None,
    std: Stats | None = None,
    interpolation: str | None = None,
    crop_pct: float | None = None,
    crop_mode: str | None = None,
    own: Preprocessing | None = None,
    hold_out: str = "names",
    classes: Sequence[str] | None = None,
    training: bool = True,
    seed: int = 0,
    workers: int = 0,
    data_dir: str | None = None,
    image_column: str | None = None,
    label_column: str | None = None,
) -> Data:
    """Loaders for a built-in name (digits, cifar10, cifar100) or a directory.

    Args:
        data: a name, a directory with `train/` and `val/` or `test/` folders of class folders, a
            directory of class folders, or one of Parquet files as Hugging Face `datasets` writes
            them.
        splits: which of "train" and "test" to read. With "train" comes "validation" if the data
            have such a split beside a test split, or if `validation` asks for one. Where the data
            have no test split, the share `validation` of the training images is the test split.
        image_size: H and W of the network's input. By default small images of one size keep it,
            and larger ones are cropped to 224.
        augment: of the training images: "crop" (pad by an eighth, random crop), "crop_flip" (and
            random mirroring), "resized_crop" (random part of the image, mirrored), "none", or
            "auto", which takes what fits the data.
        validation: the share of the training set that is held out, the same for every seed.
        mean, std: per channel, of pixels in [0, 1]. By default the training set's own if it is in
            memory, else ImageNet's.
        interpolation: "bilinear", "bicubic" or "nearest": how images are resized.
        crop_pct, crop_mode: of a large image's centre crop (`eval_transform`).
        own: what a pretrained network was trained on; it holds for what is not given.
        hold_out: "names", or "rows" for the share that older runs held out.
        classes: what class names the labels must index; the data's may be some of them.
        training: whether the training images are shuffled and augmented.
        seed: of the order of the training images.

    Raises:
        ValueError: for an unknown name, a split that is missing, a directory without images, images
            none of which can be read, a column that cannot be told, classes that do not fit.
    """
    if augment not in AUGMENTS:
        raise ValueError(f"augment={augment!r} must be one of {', '.join(AUGMENTS)}")
    if interpolation not in (None, *INTERPOLATIONS):
        raise unknown("interpolation", str(interpolation), INTERPOLATIONS)
    if crop_mode not in (None, *CROP_MODES):
        raise unknown("crop_mode", str(crop_mode), CROP_MODES)
    if crop_pct is not None and not 0 < crop_pct <= 1:
        raise ValueError(f"crop_pct={crop_pct} must be a share of the image's edge in (0, 1]")
    if not 0 <= validation < 1:
        raise ValueError(f"validation={validation} must be a share of the training set in [0, 1)")
    source = sources.find(
        str(data), data_dir=data_dir, image_column=image_column, label_column=label_column
    )
    if own is not None:
        interpolation, crop_pct = interpolation or own.interpolation, crop_pct or own.crop_pct
        image_size, crop_mode = image_size or own.image_size, crop_mode or own.crop_mode
    read, share = parts.read(source, splits, validation)
    images = {split: part for split, (part, _) in read.items()}
    names = {split: given for split, (_, given) in read.items()}
    class_names = _same_classes(source.name, images, names, classes)
    marks = {split: marks_of(part) for split, part in images.items()}
    encoded = {split: part for split, part in images.items() if isinstance(part, EncodedImages)}
    first = next(iter(images.values()))
    small = native_size(first)
    size = _size(image_size) or small or (LARGE, LARGE)
    if small:
        images = {
            split: in_memory(part, small, classes=class_names) for split, part in images.items()
        }
    unreadable = [reason for part in images.values() for reason in part.unreadable]
    if augment == "auto":
        kind = "crop_flip" if source.flips else "crop"
        augment = kind if small else "resized_crop"
    if share:
        kept, held = parts.hold_out(images["train"], validation, hold_out)
        images |= {"train": kept, share: held}
        if "train" not in splits:
            del images["train"]
    chans = first.images.shape[1] if isinstance(first, TensorImages) else 3
    if own is not None:  # a network that takes grey images sees the mean of red, green and blue
        grey = chans == 1
        mean = mean or ((sum(own.mean) / len(own.mean),) if grey else own.mean)
        std = std or ((sum(own.std) / len(own.std),) if grey else own.std)
    mean, std = _statistics(images.get("train"), chans, mean, std)

    def make_loaders(seed: int) -> dict[str, Loader]:
        loaders = {}
        for split, part in images.items():
            shuffled = training and split == "train"
            now = small if _all_of_one_size(part) else None
            whole = None
            if shuffled:
                transform = train_transform(augment, size, now, interpolation or "bilinear")
                if size == now and augment in VECTORISED:
                    whole = VECTORISED[augment](size)
            else:
                how = (interpolation or "bilinear", crop_pct, crop_mode or "center", mean)
                transform = eval_transform(size, now, small is not None, *how)
                if transform is unchanged:
                    whole = as_is
            loaders[split] = Loader(
                part,
                transform,
                min(batch_size if shuffled else eval_batch_size, len(part)),
                shuffled=shuffled,
                seed=seed,
                workers=workers,
                whole=whole,
                shape=(chans, *size),
            )
        return loaders

    images = {split: _compact(part) for split, part in images.items()}
    return Data(
        *(source.name, class_names, chans, size, mean, std, augment),
        *(interpolation, crop_pct, crop_mode, unreadable, marks, encoded),
        *(make_loaders(seed), make_loaders),
    )


def normalise(images: torch.Tensor, mean: Stats, std: Stats) -> torch.Tensor:
    """uint8 [N, C, H, W] -> float32, (x / 255 - mean) / std per channel."""
    from torchvision.transforms.v2 import functional as F

    return F.normalize(F.to_dtype(images, torch.float32, scale=True), list(mean), list(std))


def _compact(images: Images) -> Images:
    """The chosen images themselves, where they are in memory."""
    if isinstance(images, Subset) and isinstance(images.images, TensorImages):
        chosen = TensorImages(images.images.images[images.indices], images.labels)
        if (known := images.images.names) is not None:
            chosen.names = [known[index] for index in images.indices]
        return chosen
    return images


def _all_of_one_size(images: Images) -> bool:
    return isinstance(images.images if isinstance(images, Subset) else images, TensorImages)


def _size(size: int | Sequence[int] | None) -> tuple[int, int] | None:
    if size is None:
        return None
    sides = (size, size) if isinstance(size, int) else tuple(size)
    if len(sides) != 2 or not all(isinstance(side, int) and side >= 1 for side in sides):
        raise ValueError(f"image_size={size} must be one whole number >= 1, or (H, W)")
    height, width = sides
    if height * width > MOST:
        raise ValueError(
            f"image_size={size} asks for {height * width:,} pixels in an image; at most {MOST:,} "
            "are made"
        )
    return int(height), int(width)


def _same_classes(
    name: str,
    images: dict[str, Images],
    names: dict[str, tuple[str, ...] | None],
    expected: Sequence[str] | None,
) -> tuple[str, ...]:
    """The class names that all labels index; labels are renumbered where a split's names differ."""
    counts = {split: int(part.labels.max()) + 1 for split, part in images.items()}
    names = {k: None if v is None else tuple(map(same_name, v)) for k, v in names.items()}
    named = [names[split] for split in ("train", *names) if names.get(split)]
    target = None if expected is None else tuple(map(same_name, expected))
    target = target if target is not None else next(iter(named), None)
    if target is None:  # numbers: as many as the split with most
        target = tuple(map(str, range(max(counts.values()))))
    known = set(target)
    for split, given in names.items():
        missing = [n for n in given or () if n not in known]
        if given and missing and (translated := translate(given, target)):
            given, missing = translated, []
        if given is None and counts[split] > len(target):
            missing = [str(counts[split] - 1)]
        if missing:
            raise ValueError(
                f"the {split} split of {name} has {len(given or range(counts[split]))} classes, "
                f"among them {', '.join(missing[:3])}, that are not among the {len(target)} "
                "expected"
            )
        if given is not None and given != target:
            number = {name: i for i, name in enumerate(target)}
            place = torch.tensor([number[name] for name in given])
            images[split].labels = place[images[split].labels]
    return target


def _statistics(train, chans: int, mean: Stats | None, std: Stats | None) -> tuple[Stats, Stats]:
    known = train.images if isinstance(train, Subset) else train
    if (mean is None or std is None) and isinstance(known, TensorImages):
        rows = known.images if known is train else known.images[train.indices]
        moments = [torch.std_mean(rows[:, c].float() / 255, correction=0) for c in range(chans)]
        mean = mean or tuple(round(m.item(), 4) for _, m in moments)
        std = std or tuple(round(max(s.item(), 1e-4), 4) for s, _ in moments)
    if mean is None or std is None:
        grey = chans == 1
        mean = mean or ((0.5,) if grey else IMAGENET_MEAN)
        std = std or ((0.5,) if grey else IMAGENET_STD)
    for option, value in (("mean", mean), ("std", std)):
        if len(value) != chans:
            raise ValueError(f"{option}={list(value)} must have {chans} values, one per channel")
    return tuple(mean), tuple(std)

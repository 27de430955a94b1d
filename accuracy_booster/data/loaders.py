"""From a name or a path to loaders: the one way in to the data of classification."""

# N batch, C channels, H W space

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from accuracy_booster.data import sources
from accuracy_booster.data import splits as parts
from accuracy_booster.data.augmentation import (
    BatchTransform,
    train_batch_transform,
    train_transform,
    unchanged_batch,
)
from accuracy_booster.data.auto_augment import AutoAugment
from accuracy_booster.data.batches import Loader
from accuracy_booster.data.channels import convert
from accuracy_booster.data.choices import AUGMENTS, BALANCES, CROP_MODES, INTERPOLATIONS
from accuracy_booster.data.class_numbers import number_classes
from accuracy_booster.data.cropping import MOST
from accuracy_booster.data.data_set import Data
from accuracy_booster.data.dataset_images import DatasetImages
from accuracy_booster.data.encoded_images import EncodedImages
from accuracy_booster.data.images import Images, Subset, TensorImages
from accuracy_booster.data.marks import marks_of
from accuracy_booster.data.normalisation import Stats, for_channels, statistics_of
from accuracy_booster.data.preloading import native_size, preloaded
from accuracy_booster.data.source import Source
from accuracy_booster.data.transforms import Steps, Transform, eval_transform, unchanged
from accuracy_booster.errors import unknown
from accuracy_booster.models.preprocessing import Preprocessing

LARGE = 224  # pixels: what large images are cropped to unless an image size is given


def load_data(
    data: str | Path | Source,
    *,
    splits: Sequence[str] = ("train", "test"),
    batch_size: int = 128,
    eval_batch_size: int = 256,
    image_size: int | tuple[int, int] | None = None,
    augment: str = "auto",
    auto_augment: str | None = None,
    sampling: str = "none",
    validation: float = 0.0,
    in_chans: int | None = None,
    mean: Stats | None = None,
    std: Stats | None = None,
    interpolation: str | None = None,
    crop_pct: float | None = None,
    crop_mode: str | None = None,
    own: Preprocessing | None = None,
    trained_on: tuple[Stats, Stats] | None = None,
    hold_out: str = "names",
    classes: Sequence[str] | None = None,
    training: bool = True,
    seed: int = 0,
    workers: int = 0,
    data_dir: str | None = None,
    image_column: str | None = None,
    label_column: str | None = None,
) -> Data:
    """Loaders for a built-in name (digits, cifar10, cifar100), a data set of timm's or a directory.

    Args:
        data: a name, or a directory: with `train/` and `val/` or `test/` folders of class folders,
            of class folders, of Parquet files as Hugging Face `datasets` writes them, or of
            train.tar and val.tar or test.tar; or a source, of data sets that the caller gave.
        splits: which of "train" and "test" to read. With "train" comes "validation", if the data
            have such a split beside a test split or if `validation` asks for one. If the data have
            no test split, the share `validation` of the training images is the test split.
        image_size: H and W of the network's input. By default small images of one size keep it, and
            larger ones are cropped to 224.
        augment: of the training images: "crop" (pad by an eighth, random crop), "crop_flip" (and
            random mirroring), "resized_crop" (random part of the image, mirrored), "none", or
            "auto", which chooses by the size of the images.
        auto_augment: what timm does to the training images after that, in its text.
        sampling: "balanced" draws the images of an epoch with replacement, so that each class
            appears equally often.
        validation: the share of the training set that is held out, the same for every seed.
        in_chans: 1 reads images as grey, 3 as colour. By default files are colour, and images in
            memory are what they are.
        mean, std: per channel, of pixels in [0, 1]. By default the training set's own if it is in
            memory, else ImageNet's.
        interpolation: how images are resized: "bilinear", "bicubic" or "nearest".
        crop_pct, crop_mode: of the centre crop of a large image (`eval_transform`).
        own: what a pretrained network was trained on, for the arguments that are not given.
        trained_on: the mean and std alone of what it was trained on, of grey or colour images.
        hold_out: "names", or "rows" for the share that runs of older versions held out.
        classes: the names of the classes in the order of their numbers. The data may have some of
            them.
        training: whether the training images are shuffled and augmented.
        seed: of the order and the augmentation of the training images.
        workers: how many processes load images that are not in memory; 0: this process.
        data_dir: where built-in and timm's data sets are downloaded to.
        image_column, label_column: of Parquet files, where their schema leaves a choice.

    Raises:
        ValueError: if the name is unknown, a split is missing, no image can be read, a column
            cannot be told, the classes do not fit, or an argument is out of range.
    """
    if sampling not in BALANCES:
        raise ValueError(f"sampling={sampling!r} must be one of {', '.join(BALANCES)}")
    _check_choices(augment, validation, interpolation, crop_pct, crop_mode)
    source = (
        data
        if isinstance(data, Source)
        else sources.find(
            str(data), data_dir=data_dir, image_column=image_column, label_column=label_column
        )
    )
    if own is not None:
        interpolation, crop_pct = interpolation or own.interpolation, crop_pct or own.crop_pct
        image_size, crop_mode = image_size or own.image_size, crop_mode or own.crop_mode
    read, share = parts.read(source, splits, validation)
    images = {split: part for split, (part, _) in read.items()}
    names = {split: given for split, (_, given) in read.items()}
    class_names = number_classes(source.name, images, names, classes)
    marks = {split: marks_of(part) for split, part in images.items()}
    encoded = {split: part for split, part in images.items() if isinstance(part, EncodedImages)}
    first = next(iter(images.values()))
    chans = first.channels if in_chans is None else in_chans
    for part in images.values():
        convert(part, chans, source.name)
    small = native_size(first)
    size = _size(image_size) or small or (LARGE, LARGE)
    for part in images.values():
        if isinstance(part, DatasetImages):
            part.check_workers(workers)
    if small:
        images = {
            split: preloaded(part, small, classes=class_names) for split, part in images.items()
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
    if own is not None:
        trained_on = own.mean, own.std
    if trained_on is not None:
        known_mean, known_std = (for_channels(values, chans) for values in trained_on)
        mean, std = mean or known_mean, std or known_std
    mean, std = statistics_of(images.get("train"), chans, mean, std)
    how = _Transforms(
        *(augment, size, small, interpolation or "bilinear", crop_pct, crop_mode or "center", mean),
        auto_augment,
    )
    make_loaders = partial(
        _make_loaders,
        {split: _chosen(part) for split, part in images.items()},
        how,
        batch_size=batch_size,
        eval_batch_size=eval_batch_size,
        training=training,
        workers=workers,
        shape=(chans, *size),
        balanced=sampling == "balanced",
    )
    return Data(
        *(source.name, class_names, chans, size, mean, std, augment),
        *(interpolation, crop_pct, crop_mode, small is not None, unreadable, marks, encoded),
        *(make_loaders(seed), make_loaders),
    )


def _check_choices(
    augment: str,
    validation: float,
    interpolation: str | None,
    crop_pct: float | None,
    crop_mode: str | None,
) -> None:
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


def _size(size: int | Sequence[int] | None) -> tuple[int, int] | None:
    """The argument `image_size` as (H, W)."""
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


def _chosen(images: Images) -> Images:
    """A subset of images in memory as images in memory; other images as they are."""
    if isinstance(images, Subset) and isinstance(images.images, TensorImages):
        chosen = TensorImages(images.images.images[images.indices], images.labels)
        if (known := images.images.names) is not None:
            chosen.names = [known[index] for index in images.indices]
        return chosen
    return images


@dataclass(frozen=True)
class _Transforms:
    """The settings of the transforms; `native` is the size of the images if they are small."""

    augment: str
    size: tuple[int, int]
    native: tuple[int, int] | None
    interpolation: str
    crop_pct: float | None
    crop_mode: str
    mean: Stats
    auto_augment: str | None = None

    def made(self, images: Images, shuffled: bool) -> tuple[Transform, BatchTransform | None]:
        """The transform of an image, and that of a batch in memory where there is one."""
        now = self.native if isinstance(images, TensorImages) else None
        if shuffled:
            transform = train_transform(self.augment, self.size, now, self.interpolation)
            if self.auto_augment is not None:
                more = AutoAugment(self.auto_augment, self.size, self.mean, self.interpolation)
                return Steps(transform, more), None
            same = self.size == now
            return transform, train_batch_transform(self.augment, self.size) if same else None
        how = (self.interpolation, self.crop_pct, self.crop_mode, self.mean)
        transform = eval_transform(self.size, now, self.native is not None, *how)
        return transform, unchanged_batch if transform is unchanged else None


def _make_loaders(
    images: Mapping[str, Images],
    transforms: _Transforms,
    seed: int,
    *,
    batch_size: int,
    eval_batch_size: int,
    training: bool,
    workers: int,
    shape: tuple[int, int, int],
    balanced: bool,
) -> dict[str, Loader]:
    loaders = {}
    for split, part in images.items():
        shuffled = training and split == "train"
        transform, batch_transform = transforms.made(part, shuffled)
        loaders[split] = Loader(
            part,
            transform,
            min(batch_size if shuffled else eval_batch_size, len(part)),
            shuffled=shuffled,
            seed=seed,
            workers=workers,
            batch_transform=batch_transform,
            shape=shape,
            balanced=balanced and shuffled,
        )
    return loaders

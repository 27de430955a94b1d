"""From a name or a path to loaders: the one way in to data."""

# N batch, C channels, H W space

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import torch

from accuracy_booster.data import sources
from accuracy_booster.data.batches import VECTORISED, Loader, as_is
from accuracy_booster.data.images import (
    Images,
    Subset,
    TensorImages,
    in_memory,
    native_size,
)

Stats = tuple[float, ...]
IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
LARGE = 224  # pixels: what large images are cropped to unless an image size is given
AUGMENTS = ("auto", "crop", "crop_flip", "resized_crop", "none")


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
    unreadable: list[str]  # images that were left out when the data were read into memory
    loaders: dict[str, Loader] = field(repr=False)
    make_loaders: Callable[[int], dict[str, Loader]] = field(repr=False)

    def reseed(self, seed: int) -> Data:
        """The same images in new loaders, as `load_data(..., seed=seed)` would give them."""
        return replace(self, loaders=self.make_loaders(seed))

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
        data: a name, a directory with `train/` and `val/` or `test/` folders of class folders, or
            a directory of Parquet files as Hugging Face `datasets` writes them.
        splits: which of "train" and "test" to read. With "train" comes "validation" if the data
            have such a split beside a test split, or if `validation` asks for one.
        image_size: H and W of the network's input. By default small images of one size keep it,
            and larger ones are cropped to 224.
        augment: of the training images: "crop" (pad by an eighth, random crop), "crop_flip" (and
            random mirroring), "resized_crop" (random part of the image, mirrored), "none", or
            "auto", which takes what fits the data.
        validation: the share of the training set that is held out, the same for every seed.
        mean, std: per channel, of pixels in [0, 1]. By default the training set's own if it is in
            memory, else ImageNet's.
        classes: what class names the labels must index; the data's may be some of them.
        training: whether the training images are shuffled and augmented.
        seed: of the order of the training images.

    Raises:
        ValueError: for an unknown name, a split that is missing, a directory without images, images
            none of which can be read, a column that cannot be told, classes that do not fit.
    """
    if augment not in AUGMENTS:
        raise ValueError(f"augment={augment!r} must be one of {', '.join(AUGMENTS)}")
    if not 0 <= validation < 1:
        raise ValueError(f"validation={validation} must be a share of the training set in [0, 1)")
    source = sources.find(
        str(data), data_dir=data_dir, image_column=image_column, label_column=label_column
    )
    images, names = _read(source, splits, validation)
    class_names = _same_classes(source.name, images, names, classes)
    first = next(iter(images.values()))
    small = native_size(first)
    size = _size(image_size) or small or (LARGE, LARGE)
    if small:
        images = {split: in_memory(part, small) for split, part in images.items()}
    unreadable = [reason for part in images.values() for reason in part.unreadable]
    if augment == "auto":
        kind = "crop_flip" if source.flips else "crop"
        augment = kind if small else "resized_crop"
    if "train" in images and "validation" not in images and validation:
        images["train"], images["validation"] = _hold_out(images["train"], validation)
    chans = first.images.shape[1] if isinstance(first, TensorImages) else 3
    mean, std = _statistics(images.get("train"), chans, mean, std)

    def make_loaders(seed: int) -> dict[str, Loader]:
        loaders = {}
        for split, part in images.items():
            shuffled = training and split == "train"
            now = small if _all_of_one_size(part) else None
            whole = None
            if shuffled:
                transform = train_transform(augment, size, now)
                if size == now and augment in VECTORISED:
                    whole = VECTORISED[augment](size)
            else:
                transform = eval_transform(size, now, small is not None)
                if transform is _unchanged:
                    whole = as_is
            loaders[split] = Loader(
                part,
                transform,
                min(batch_size if shuffled else eval_batch_size, len(part)),
                shuffled=shuffled,
                seed=seed,
                workers=workers,
                whole=whole,
            )
        return loaders

    if "train" in images:
        images["train"] = _compact(images["train"])
    if "validation" in images:
        images["validation"] = _compact(images["validation"])
    return Data(
        *(source.name, class_names, chans, size, mean, std, augment, unreadable),
        *(make_loaders(seed), make_loaders),
    )


def normalise(images: torch.Tensor, mean: Stats, std: Stats) -> torch.Tensor:
    """uint8 [N, C, H, W] -> float32, (x / 255 - mean) / std per channel."""
    from torchvision.transforms.v2 import functional as F

    return F.normalize(F.to_dtype(images, torch.float32, scale=True), list(mean), list(std))


def train_transform(
    augment: str, size: tuple[int, int], now: tuple[int, int] | None
) -> Callable[[torch.Tensor], torch.Tensor]:
    """uint8 [C, *, *] -> uint8 [C, *size], random; `now` is the images' size if all have one."""
    from torchvision.transforms import v2

    if augment == "resized_crop":
        return v2.Compose([v2.RandomResizedCrop(size, antialias=True), v2.RandomHorizontalFlip()])
    steps: list = [] if size == now else [v2.Resize(size, antialias=True)]
    if augment in ("crop", "crop_flip"):
        pad = [max(1, round(side / 8)) for side in size]  # 4 for CIFAR's 32
        steps.append(v2.RandomCrop(size, padding=[pad[1], pad[0]]))
    if augment == "crop_flip":
        steps.append(v2.RandomHorizontalFlip())
    return v2.Compose(steps) if steps else _unchanged


def eval_transform(
    size: tuple[int, int], now: tuple[int, int] | None, small: bool
) -> Callable[[torch.Tensor], torch.Tensor]:
    """uint8 [C, *, *] -> uint8 [C, *size]: small images are resized, large ones centre-cropped."""
    from torchvision.transforms import v2

    if small:
        return _unchanged if size == now else v2.Resize(size, antialias=True)
    return CentreCrop(size)


class CentreCrop:
    """The centre of an image resized to just cover 256 / 224 of `size`, as for ImageNet."""

    def __init__(self, size: tuple[int, int]):
        self.size = size
        self.cover = tuple(round(side * 256 / 224) for side in size)

    def __call__(self, image: torch.Tensor) -> torch.Tensor:
        from torchvision.transforms.v2 import functional as F

        (height, width), (h, w) = self.cover, image.shape[-2:]
        by_height = height * w >= width * h
        new = [height, int(height * w / h)] if by_height else [int(width * h / w), width]
        return F.center_crop(F.resize(image, new, antialias=True), list(self.size))


def _compact(images: Images) -> Images:
    """The chosen images themselves, where they are in memory."""
    if isinstance(images, Subset) and isinstance(images.images, TensorImages):
        return TensorImages(images.images.images[images.indices], images.labels)
    return images


def _all_of_one_size(images: Images) -> bool:
    return isinstance(images.images if isinstance(images, Subset) else images, TensorImages)


def _unchanged(image: torch.Tensor) -> torch.Tensor:
    return image


def _size(size: int | Sequence[int] | None) -> tuple[int, int] | None:
    if size is None:
        return None
    sides = (size, size) if isinstance(size, int) else tuple(size)
    if len(sides) != 2 or not all(isinstance(side, int) and side >= 1 for side in sides):
        raise ValueError(f"image_size={size} must be one whole number >= 1, or (H, W)")
    height, width = sides
    return int(height), int(width)


def _read(
    source: sources.Source, splits: Sequence[str], validation: float
) -> tuple[dict[str, Images], dict[str, tuple[str, ...] | None]]:
    wanted = [*splits]
    if "train" in splits and "validation" in source.splits and not validation:
        wanted.append("validation")
    read = {split: source.read(split) for split in wanted}
    images = {split: part for split, (part, _) in read.items()}
    return images, {split: names for split, (_, names) in read.items()}


def _same_classes(
    name: str,
    images: dict[str, Images],
    names: dict[str, tuple[str, ...] | None],
    expected: Sequence[str] | None,
) -> tuple[str, ...]:
    """The class names that all labels index; labels are renumbered where a split's names differ."""
    counts = {split: int(part.labels.max()) + 1 for split, part in images.items()}
    named = [names[split] for split in ("train", *names) if names.get(split)]
    target = tuple(expected) if expected is not None else next(iter(named), None)
    if target is None:  # numbers: as many as the split with most
        target = tuple(map(str, range(max(counts.values()))))
    for split, given in names.items():
        missing = [n for n in given or () if n not in target]
        if given is None and counts[split] > len(target):
            missing = [str(counts[split] - 1)]
        if missing:
            raise ValueError(
                f"the {split} split of {name} has {len(given or range(counts[split]))} classes, "
                f"among them {', '.join(missing[:3])}, that are not among the {len(target)} "
                "expected"
            )
        if given is not None and given != target:
            place = torch.tensor([target.index(n) for n in given])
            images[split].labels = place[images[split].labels]
    return target


def _hold_out(images: Images, share: float) -> tuple[Images, Images]:
    from sklearn.model_selection import train_test_split

    count = round(share * len(images))
    if not 0 < count < len(images):
        raise ValueError(f"validation={share} of {len(images)} images leaves a split empty")
    rows, labels = range(len(images)), images.labels.numpy()
    try:
        kept, held = train_test_split(rows, test_size=count, stratify=labels, random_state=0)
    except ValueError:  # a class with one image, or fewer held out than classes
        kept, held = train_test_split(rows, test_size=count, random_state=0)
    return Subset(images, kept), Subset(images, held)


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

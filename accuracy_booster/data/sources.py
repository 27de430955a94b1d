"""Where images come from: built-in names, folders of class folders, directories of Parquet."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from accuracy_booster.data import image_files
from accuracy_booster.data.choices import BUILT_IN
from accuracy_booster.data.images import Images, TensorImages
from accuracy_booster.errors import unknown

Read = Callable[[], tuple[Images, tuple[str, ...] | None]]


class Unlabelled(ValueError):
    """A split that has images and no labels."""


@dataclass(frozen=True)
class Source:
    """A data set's splits, each read when asked for: images, and names of classes if they have any.

    `flips` says whether a mirrored image still shows its class (a digit's does not), `unsplit`
    that the training split is all there is because the data set has no splits.
    """

    name: str
    splits: dict[str, Read]
    flips: bool = True
    unsplit: bool = False

    def read(self, split: str) -> tuple[Images, tuple[str, ...] | None]:
        """The images of a split, and the names of the classes or None where they are numbers.

        Raises:
            ValueError: for a split that is missing, or that holds no images.
            Unlabelled: for one whose images have no labels.
        """
        if split not in self.splits:
            have = ", ".join(self.splits) or "none"
            raise ValueError(f"{self.name} has no {split} split; it has: {have}")
        images, classes = self.splits[split]()
        if not len(images):
            raise ValueError(f"the {split} split of {self.name} holds no images")
        low, high = int(images.labels.min()), int(images.labels.max())
        if low == high == -1:  # what Hugging Face and torchvision write where there is no label
            raise Unlabelled(f"the {split} split of {self.name} has no labels: all are -1")
        count = len(images.labels.unique()) if classes is None else len(classes)
        limit = max(1000, 10 * count) if classes is None else count
        if low < 0 or high >= limit:
            last = count - 1 if high >= limit else high
            raise ValueError(
                f"the {split} split of {self.name} has labels {low} to {high}: no class numbers, "
                f"which go from 0 to {last}"
            )
        return images, classes


def place(data: str) -> str:
    """The absolute path of a directory, which names it from everywhere; other names as they are."""
    if data in BUILT_IN or not Path(data).expanduser().is_dir():
        return data
    return os.path.abspath(Path(data).expanduser())


def exists(data: str) -> bool:
    """Whether `find` has a source for the name, as far as can be told without reading."""
    from accuracy_booster.data.timm_sources import is_timms

    return data in BUILT_IN or Path(data).expanduser().is_dir() or is_timms(data)


def find(
    data: str,
    *,
    data_dir: str | None = None,
    image_column: str | None = None,
    label_column: str | None = None,
) -> Source:
    """The source that `data` names: one of `BUILT_IN`, or a directory.

    Raises:
        ValueError: if it names nothing, with the nearest names.
    """
    if data == "digits":
        return _digits()
    if data in ("cifar10", "cifar100"):
        return _cifar(data, data_dir)
    path = Path(data).expanduser()
    if not path.is_dir():
        from accuracy_booster.data.timm_sources import is_timms, timm_source

        if is_timms(data):
            return timm_source(data, data_dir)
        remedy = "or a directory of class folders or Parquet files, or timm's hfds/NAME, torch/NAME"
        if path.exists():
            raise ValueError(f"data {data!r} is a file; give the directory that holds it")
        raise unknown("data set", data, BUILT_IN, remedy)
    if _has_parquet(path):
        from accuracy_booster.data.parquet import parquet_source

        return parquet_source(path, image_column, label_column)
    if _visible(path, "*.tar") and not name_splits(image_files.folders(path), str(path)):
        from accuracy_booster.data.timm_sources import tar_source

        if tars := tar_source(path):
            return tars
    from accuracy_booster.data.folders import folder_source

    return folder_source(path)


def _has_parquet(path: Path) -> bool:
    """Whether the data are Parquet files: here, one folder down, or two (CONFIG/train/0000)."""
    if _visible(path, "*.parquet") or _visible(path, "*/*.parquet"):
        return True
    return not name_splits(image_files.folders(path), str(path)) and _visible(path, "*/*/*.parquet")


def _visible(path: Path, pattern: str) -> bool:
    """Whether a regular file fits the pattern that is no leftover (macOS's ._train.tar)."""
    return any(
        file.is_file() and not any(map(image_files.is_leftover, file.relative_to(path).parts))
        for file in path.glob(pattern)
    )


def name_splits(found: Sequence[str], where: str = "the data set") -> dict[str, str]:
    """Our split -> the one found. A `val` split without a `test` split is the test split.

    Raises:
        ValueError: if two of them name the same split.
    """
    alias = {"train": "train", "training": "train", "test": "test", "testing": "test"}
    alias |= dict.fromkeys(("val", "valid", "validation", "dev"), "validation")
    splits: dict[str, str] = {}
    for name in found:
        split = alias.get(name.lower())
        if split in splits:
            raise ValueError(
                f"{where} has both {splits[split]} and {name}, and each names the {split} split; "
                "rename the one that is not to be used"
            )
        if split:
            splits[split] = name
    if "test" not in splits and "validation" in splits:
        splits["test"] = splits.pop("validation")
    return splits


def _digits() -> Source:
    """scikit-learn's 1797 handwritten digits, 8x8; a fixed stratified fifth is the test split."""

    def read(test: bool):
        from sklearn.datasets import load_digits
        from sklearn.model_selection import train_test_split

        digits = load_digits()
        rows = range(len(digits.target))
        parts = train_test_split(rows, test_size=0.2, stratify=digits.target, random_state=0)
        chosen = parts[1] if test else parts[0]
        images = torch.tensor(digits.images[chosen]) * (255 / 16)
        labels = torch.tensor(digits.target[chosen])
        return TensorImages(images.round().to(torch.uint8)[:, None], labels), tuple("0123456789")

    return Source("digits", {"train": lambda: read(False), "test": lambda: read(True)}, flips=False)


def _cifar(name: str, data_dir: str | None) -> Source:
    def read(train: bool):
        from torchvision.datasets import CIFAR10, CIFAR100

        root = Path(data_dir or "~/.cache/accuracy_booster").expanduser()
        kind = CIFAR100 if name == "cifar100" else CIFAR10
        try:
            data = kind(str(root), train=train)
        except RuntimeError:  # torchvision's word for "not there"
            from accuracy_booster.progress import console

            made = not root.exists()
            console().print(f"Downloading {name} to {root}")
            try:
                data = kind(str(root), train=train, download=True)
            except (OSError, RuntimeError) as e:
                if made and root.is_dir() and not any(root.iterdir()):
                    root.rmdir()
                raise ValueError(
                    f"cannot download {name} to {root} ({e}); give --data a directory that has "
                    "it, or --data_dir the folder of an earlier download"
                ) from e
        pixels = torch.from_numpy(data.data).permute(0, 3, 1, 2).contiguous()
        return TensorImages(pixels, data.targets), tuple(data.classes)

    return Source(name, {"train": lambda: read(True), "test": lambda: read(False)})

"""Checks that a folder holds the public data set whose name it has: CIFAR, ImageNet or COCO."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from accuracy_booster.data import sources
from accuracy_booster.data.images import Images
from accuracy_booster.detection.coco import read_coco
from accuracy_booster.detection.layouts import find_split
from accuracy_booster.files import hash_of


@dataclass(frozen=True)
class Known:
    """A public data set.

    Attributes:
        classes, train, test: the numbers of classes, training images and test images.
        digest: of the test images (`digest`); "" if they are not checked.
    """

    classes: int
    train: int
    test: int
    digest: str = ""


KNOWN = {
    "cifar10": Known(10, 50_000, 10_000, "a381bd86a998a899"),
    "cifar100": Known(100, 50_000, 10_000, "e5a46baf5fa6fa62"),
    "imagenet": Known(1000, 1_281_167, 50_000),
}
# COCO by year; the year of the paper comes first and is preferred
COCO = {"2014": Known(80, 82_783, 40_504), "2017": Known(80, 118_287, 5_000)}


def digest(images: Images) -> str:
    """A hash of images and their labels. Their order and file formats do not change it."""
    total = 0
    for image, label in (images[i] for i in range(len(images))):
        content = hashlib.sha256(image.contiguous().numpy().tobytes() + label.to_bytes(4, "big"))
        total += int.from_bytes(content.digest()[:8], "big")
    return f"{total % 2**64:016x}"


@cache
def fault(name: str, data: str, data_dir: str | None) -> str:
    """Why a place does not hold the data set of this name; "" if it does.

    The numbers of classes and images are checked, and of CIFAR every test image. Where `data` is
    CIFAR's name and it is not there yet, it is downloaded.

    Args:
        name: of the data set, a key of `KNOWN`.
        data, data_dir: the place, as `ab.train` takes it.
    """
    try:
        source = sources.find(data, data_dir=data_dir)
        (train, _), (test, classes) = source.read("train"), source.read("test")
    except (OSError, ValueError) as e:
        return str(e)
    known = KNOWN[name]
    count = len(classes) if classes is not None else len(test.labels.unique())
    found = (count, len(train), len(test))
    if found != (known.classes, known.train, known.test):
        return (
            f"{data} has {_numbers(*found)}, and {name} has "
            f"{_numbers(known.classes, known.train, known.test)}"
        )
    if known.digest and digest(test) != known.digest:
        return f"the test images or labels in {data} are not those of {name}"
    return ""


def coco_files(folder: Path) -> dict[str, str]:
    """The arguments of `ab.detection.train` that choose one of the years that a folder may have."""
    for year in COCO:
        found = {
            f"{split}_annotations": folder / "annotations" / f"instances_{split}{year}.json"
            for split in ("train", "val")
        }
        if all(path.is_file() for path in found.values()):
            return {name: str(path) for name, path in found.items()}
    return {}


@cache
def coco_fault(folder: Path) -> str:
    """Why a folder does not hold COCO, by the numbers of images and categories; "" if it does."""
    given = coco_files(folder)
    try:
        train, val = (
            read_coco(find_split(folder, split, given.get(f"{split}_annotations")).annotations)
            for split in ("train", "val")
        )
    except (OSError, ValueError) as e:
        return str(e)
    found = (len(train.categories), len(train.names), len(val.names))
    if found in [(known.classes, known.train, known.test) for known in COCO.values()]:
        return ""
    years = "; ".join(
        f"of {year} {_numbers(known.classes, known.train, known.test)}"
        for year, known in COCO.items()
    )
    return f"{folder} has {_numbers(*found)}, and COCO has {years}"


def _numbers(classes: int, train: int, test: int) -> str:
    return f"{classes:,} classes, {train:,} training and {test:,} test images"


def summary(name: str, marks: Mapping[str, Any] | None) -> dict[str, Any]:
    """What a result keeps of its data, to tell it from other data.

    Args:
        marks: what the run noted of its images (`data.marks`), by split.

    Returns:
        The name, the numbers of images, a hash of the marks, and the digest of a known data set.
    """
    known = KNOWN.get(name)
    images = {split: found.get("images") for split, found in (marks or {}).items()}
    return {
        **{"name": name, "images": images, "marks": hash_of(marks)[:16]},
        "digest": known.digest if known else "",
    }

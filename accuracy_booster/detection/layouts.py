"""Finds the files of a data set in COCO's format, laid out as by COCO or by Roboflow."""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from pathlib import Path

from accuracy_booster.data import image_files

LAYOUTS = (
    "annotations/instances_NAME.json with images in NAME/ (NAME as train2017, val2017), or "
    "train/_annotations.coco.json and valid/_annotations.coco.json beside the images"
)
ROBOFLOW = "_annotations.coco.json"
# {split: the beginnings of its names}; the first with a file counts
_BEGINNINGS = {"train": ("train",), "val": ("val", "test")}
_BARE = re.compile(r"(train|training|val|valid|validation|test)[-_]?\d*", re.IGNORECASE)


@dataclass(frozen=True)
class SplitFiles:
    """Where a split lies.

    Attributes:
        annotations: the JSON file.
        images: the folder of the images.
        remark: a note on the choice, "" if there is none.
    """

    annotations: Path
    images: Path
    remark: str = ""


def find_split(
    data: str | Path | None,
    split: str,
    annotations: str | Path | None = None,
    images: str | Path | None = None,
) -> SplitFiles:
    """Where a split lies.

    Args:
        data: the directory; None where both paths are given.
        split: "train" or "val".
        annotations, images: the paths, which take precedence over what is in the directory.

    Raises:
        ValueError: if there is no such split, if several files may be meant, or if a path does not
            exist.
    """
    folder = None if data is None else Path(data).expanduser()
    if folder is not None and not folder.is_dir():
        what = "is a file; give the directory that holds it" if folder.exists() else "is not there"
        raise ValueError(f"data {str(data)!r} {what}")
    remark = ""
    if annotations is not None:
        file = Path(annotations).expanduser()
    elif folder is not None:
        file, remark = _annotations(folder, split)
    else:
        raise ValueError(f"give the directory of the data, or {split}_annotations")
    if not file.is_file():
        raise ValueError(f"{split}_annotations={str(file)!r} is no file that is there")
    place = _images(file, split) if images is None else Path(images).expanduser()
    if not place.is_dir():
        raise ValueError(f"{split}_images={str(place)!r} is no directory that is there")
    return SplitFiles(file, place, remark)


def _annotations(folder: Path, split: str) -> tuple[Path, str]:
    """The one file of a split in a directory, and a remark if it is that of the test split."""
    for beginning in _BEGINNINGS[split]:
        found = _candidates(folder, beginning)
        if len(found) > 1:
            names = ", ".join(str(path.relative_to(folder)) for path in found)
            raise ValueError(
                f"{folder} has several files for the {split} split: {names}; choose one with "
                f"{split}_annotations"
            )
        if found:
            name = str(found[0].relative_to(folder))
            remark = "" if beginning == split else f"there is no {split} split; {name} is used"
            return found[0], remark
    raise ValueError(
        f"{folder} has no annotations of the {split} split: expected {LAYOUTS}; or give "
        f"{split}_annotations and {split}_images"
    )


def _candidates(folder: Path, beginning: str) -> list[Path]:
    """The files of annotations for names that begin so.

    Where there are files named as COCO names them (instances_train2017.json), files that are named
    after the split alone (train.json) do not count.
    """
    named: list[Path] = []
    bare: list[Path] = []
    place = folder / "annotations"
    for entry in image_files.entries(place) if place.is_dir() else []:
        stem, end = os.path.splitext(entry.name)
        if end != ".json" or not entry.is_file():
            continue
        name = stem.removeprefix("instances_").lower()
        if name.startswith(beginning) and name != stem.lower():
            named.append(Path(entry.path))
        elif name.startswith(beginning) and _BARE.fullmatch(name):
            bare.append(Path(entry.path))
    beside = [
        folder / name / ROBOFLOW
        for name in image_files.folders(folder)
        if name.lower().startswith(beginning) and (folder / name / ROBOFLOW).is_file()
    ]
    return (named or bare) + beside


def _images(file: Path, split: str) -> Path:
    """The folder of the images that belong to a file of annotations."""
    if file.name == ROBOFLOW:
        return file.parent
    name, root = file.stem.removeprefix("instances_"), file.parent.parent
    tried = [root / name, root / "images" / name]
    for place in tried:
        if place.is_dir():
            return place
    raise ValueError(
        f"the images of {file} are neither in {tried[0]} nor in {tried[1]}; give {split}_images"
    )

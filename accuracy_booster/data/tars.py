"""Tar files of class folders, one for each split: train.tar, and val.tar or test.tar."""

from __future__ import annotations

import os
import warnings
from functools import partial
from pathlib import Path
from typing import Any

from accuracy_booster.data import image_files
from accuracy_booster.data.image_files import is_leftover
from accuracy_booster.data.source import Part, Source
from accuracy_booster.data.split_names import name_splits
from accuracy_booster.data.timm_sources import (
    IndexedImages,
    class_names_of,
    create_dataset,
    labels_of,
)


def tar_source(path: Path) -> Source | None:
    """The splits of a folder of tar files; None if no tar file in it is called like a split."""
    tars = [e.name for e in image_files.entries(path) if e.name.endswith(".tar") and e.is_file()]
    found = name_splits([Path(name).stem for name in tars])
    if not found:
        return None
    splits = {
        split: partial(_read, str(path / f"{stem}.tar"), stem) for split, stem in found.items()
    }
    return Source(str(path), splits)


def _read(tar: str, split: str) -> Part:
    # timm would keep an index beside the tar file, as a pickle, and trust it the next time; and
    # processes must not share one open file
    dataset = create_dataset("", tar, split, cache_tarinfo=False, cache_tarfiles=False)
    reader, source = dataset.reader, f"{tar}/{split}"
    names = class_names_of(reader)
    if not names:
        return IndexedImages(lambda i: reader[i][0], labels_of(reader, source), source), None
    _check_end(tar)
    return _without_leftovers(reader, names, source)


def _check_end(tar: str) -> None:
    """Warn if a tar file was cut off: nothing else would show that images are missing."""
    with open(tar, "rb") as file:
        size = file.seek(0, os.SEEK_END)
        file.seek(max(0, size - 512))
        if size % 512 or any(file.read()):
            warnings.warn(
                f"{tar} does not end as a tar file ends: it seems to be cut, and images may be "
                "missing; fetch it again",
                stacklevel=2,
            )


def _without_leftovers(reader: Any, names: tuple[str, ...], source: str) -> Part:
    """A tar file's images without what other programs left in it, such as macOS's ._x.jpg."""
    kept = [
        row
        for row, (entry, *_) in enumerate(reader.samples)
        if not any(map(is_leftover, Path(entry.path.removeprefix("./")).parts))
    ]
    labels = [int(reader.targets[row]) for row in kept]
    classes = [i for i in range(len(names)) if not is_leftover(names[i]) or i in set(labels)]
    number = {old: new for new, old in enumerate(classes)}
    images = IndexedImages(lambda i: reader[kept[i]][0], [number[i] for i in labels], source)
    return images, tuple(names[i] for i in classes)

"""Data sets that timm's factory reads: `hfds/NAME`, `torch/NAME`, a folder of tar files.

Its streams (`tfds/`, `wds/`, `hfids/`) are refused: their images have no numbers, so a training on
them could not go on where it was.
"""

from __future__ import annotations

import io
import os
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

from PIL import Image

from accuracy_booster.data import image_files
from accuracy_booster.data.image_files import extensions, is_leftover
from accuracy_booster.data.images import EncodedImages, Images
from accuracy_booster.data.sources import Read, Source, name_splits

PREFIXES = ("hfds", "torch")
STREAMS = ("tfds", "wds", "hfids")


class _Indexed(EncodedImages):
    """Images by number, from a function that opens one."""

    def __init__(self, open_one: Callable[[int], Any], labels: list[int], source: str):
        super().__init__(lambda index: b"", labels, source)
        self.open_one = open_one

    def open(self, index: int) -> Image.Image:
        try:
            found = self.open_one(index)
            if isinstance(found, Image.Image):
                return self._checked(found)
            return self._checked(
                Image.open(io.BytesIO(found) if isinstance(found, bytes) else found)
            )
        except Exception as e:  # readers and decoders raise what they like
            raise self._unreadable(index, e) from e


def is_timms(data: str) -> bool:
    """Whether a data set's name is one of timm's."""
    return data.partition("/")[0].lower() in PREFIXES + STREAMS and "/" in data


def timm_source(name: str, root: str | None) -> Source:
    """The train and validation splits of timm's data set of this name, under `root`.

    Raises:
        ValueError: for a stream, or one that timm cannot make.
    """
    if name.partition("/")[0].lower() in STREAMS:
        raise ValueError(
            f"data {name!r} is a stream, whose images have no numbers: a training on it could not "
            f"go on where it was; use {', '.join(f'{p}/NAME' for p in PREFIXES)} or a directory"
        )
    splits: dict[str, Read] = {
        "train": partial(_read, name, root, "train"),
        "test": partial(_read, name, root, "validation"),
    }
    return Source(name, splits)


def tar_source(path: Path) -> Source | None:
    """The splits of a folder with train.tar and val.tar or test.tar, each with class folders."""
    tars = [e.name for e in image_files.entries(path) if e.name.endswith(".tar") and e.is_file()]
    found = name_splits([Path(name).stem for name in tars])
    if not found:
        return None
    splits: dict[str, Read] = {
        split: partial(_read, "", str(path / f"{stem}.tar"), stem) for split, stem in found.items()
    }
    return Source(str(path), splits)


def _read(name: str, root: str | None, split: str) -> tuple[Images, tuple[str, ...] | None]:
    from timm.data import create_dataset

    try:
        # a tar's index is not taken from a pickle beside it, and processes share no open file
        options: dict[str, Any] = {} if name else {"cache_tarinfo": False, "cache_tarfiles": False}
        with _every_kind():
            dataset = create_dataset(name, root=root, split=split, **options)
    except Exception as e:  # whatever the library behind it raises
        reason = " ".join(str(e).split())[:300] or type(e).__name__
        raise ValueError(
            f"timm cannot read {name or root!r}, split {split}, in {root}: {reason}"
        ) from e
    source = f"{name or root}/{split}"
    if hasattr(dataset, "reader"):  # its own __getitem__ passes over unreadable images in silence
        reader = dataset.reader
        classes = getattr(reader, "class_to_idx", None) or getattr(
            reader, "class_name_to_idx", None
        )
        names = tuple(sorted(classes, key=classes.get)) if classes else None
        if names and isinstance(root, str) and root.endswith(".tar"):
            _check_end(root)
            return _of_tar(reader, names, source)
        return _Indexed(lambda i: reader[i][0], _labels(reader, source), source), names
    images = _Indexed(lambda i: dataset[i][0], _labels(dataset, source), source)
    names = getattr(dataset, "classes", None)
    return images, tuple(map(str, names)) if names else None


@contextmanager
def _every_kind() -> Iterator[None]:
    """timm counts .png, .jpg and .jpeg alone; here it counts what Pillow reads."""
    from timm.data.readers.img_extensions import get_img_extensions, set_img_extensions

    before = get_img_extensions()
    set_img_extensions(tuple(sorted(extensions())))
    try:
        yield
    finally:
        set_img_extensions(before)


def _check_end(tar: str) -> None:
    """Warn of a tar file that was cut: what is missing would not be noticed."""
    with open(tar, "rb") as file:
        size = file.seek(0, os.SEEK_END)
        file.seek(max(0, size - 512))
        if size % 512 or any(file.read()):
            warnings.warn(
                f"{tar} does not end as a tar file ends: it seems to be cut, and images may be "
                "missing; fetch it again",
                stacklevel=2,
            )


def _of_tar(reader: Any, names: tuple[str, ...], source: str) -> tuple[Images, tuple[str, ...]]:
    """A tar file's images without what other programs left in it (macOS stores ._x.jpg)."""
    kept = [
        row
        for row, (entry, *_) in enumerate(reader.samples)
        if not any(map(is_leftover, Path(entry.path.removeprefix("./")).parts))
    ]
    labels = [int(reader.targets[row]) for row in kept]
    classes = [i for i in range(len(names)) if not is_leftover(names[i]) or i in set(labels)]
    number = {old: new for new, old in enumerate(classes)}
    images = _Indexed(lambda i: reader[kept[i]][0], [number[i] for i in labels], source)
    return images, tuple(names[i] for i in classes)


def _labels(dataset: Any, where: str = "the data set") -> list[int]:
    """The labels without reading an image, where the data set has them; -1 where there is none."""
    labels: Any = None
    for attribute in ("targets", "labels", "_labels", "y"):
        if labels is None and hasattr(dataset, attribute):
            labels = getattr(dataset, attribute)
    if labels is None and hasattr(dataset, "label_key"):  # of Hugging Face
        labels = dataset.dataset[dataset.label_key]
    if labels is None and hasattr(dataset, "samples"):
        labels = [sample[-1] for sample in dataset.samples]
    if labels is None:
        labels = [dataset[i][1] for i in range(len(dataset))]
    try:
        return [-1 if label is None else int(label) for label in labels]
    except (TypeError, ValueError, OverflowError) as e:
        reason = " ".join(str(e).split())[:200]
        raise ValueError(f"a label of {where} is no class number: {reason}") from e

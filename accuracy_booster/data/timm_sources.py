"""Data sets that timm's factory reads by name: `hfds/NAME` and `torch/NAME`.

timm's streams (`tfds/`, `wds/`, `hfids/`) are refused: their images have no numbers, so a training
could not be resumed in the middle of an epoch. `tars` reads tar files with the same functions.
"""

from __future__ import annotations

import io
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

from PIL import Image

from accuracy_booster.data.decoding import checked
from accuracy_booster.data.encoded_images import EncodedImages
from accuracy_booster.data.image_files import extensions
from accuracy_booster.data.source import Names, Part, Source

PREFIXES = ("hfds", "torch")
STREAMS = ("tfds", "wds", "hfids")


class IndexedImages(EncodedImages):
    """Images by number, from a function that opens one: a picture, a file, or a file's bytes."""

    def __init__(self, open_one: Callable[[int], Any], labels: list[int], source: str):
        super().__init__(lambda index: b"", labels, source)
        self.open_one = open_one

    def open(self, index: int) -> Image.Image:
        try:
            found = self.open_one(index)
            if isinstance(found, Image.Image):
                return checked(found)
            return checked(Image.open(io.BytesIO(found) if isinstance(found, bytes) else found))
        except Exception as e:  # timm's readers and Pillow's decoders raise errors of any kind
            raise self._unreadable(index, e) from e


def is_timms(data: str) -> bool:
    """Whether the name is one of a data set of timm's."""
    return data.partition("/")[0].lower() in PREFIXES + STREAMS and "/" in data


def timm_source(name: str, root: str | None) -> Source:
    """The train and validation splits of timm's data set of this name, under `root`.

    Raises:
        ValueError: if it is a stream. Reading raises it if timm cannot make the data set.
    """
    if name.partition("/")[0].lower() in STREAMS:
        raise ValueError(
            f"data {name!r} is a stream, whose images have no numbers: a training on it could not "
            f"go on where it was; use {', '.join(f'{p}/NAME' for p in PREFIXES)} or a directory"
        )
    splits = {
        "train": partial(_read, name, root, "train"),
        "test": partial(_read, name, root, "validation"),
    }
    return Source(name, splits)


def _read(name: str, root: str | None, split: str) -> Part:
    dataset, source = create_dataset(name, root, split), f"{name}/{split}"
    if hasattr(dataset, "reader"):  # the data set itself skips unreadable images without a word
        reader = dataset.reader
        images = IndexedImages(lambda i: reader[i][0], labels_of(reader, source), source)
        return images, class_names_of(reader)
    images = IndexedImages(lambda i: dataset[i][0], labels_of(dataset, source), source)
    names = getattr(dataset, "classes", None)
    return images, tuple(map(str, names)) if names else None


def create_dataset(name: str, root: str | None, split: str, **options: Any) -> Any:
    """timm's data set of this name, or for the name "" the folder or tar file `root`.

    Raises:
        ValueError: if timm cannot make it.
    """
    import timm.data

    try:
        with _every_extension():
            return timm.data.create_dataset(name, root=root, split=split, **options)
    except Exception as e:  # the libraries behind timm raise errors of any kind
        reason = " ".join(str(e).split())[:300] or type(e).__name__
        raise ValueError(
            f"timm cannot read {name or root!r}, split {split}, in {root}: {reason}"
        ) from e


@contextmanager
def _every_extension() -> Iterator[None]:
    """Let timm find all kinds of files that Pillow reads, and not .png, .jpg and .jpeg alone.

    timm has no argument for it, but a setting of the whole process, which is put back.
    """
    from timm.data.readers.img_extensions import get_img_extensions, set_img_extensions

    before = get_img_extensions()
    set_img_extensions(tuple(sorted(extensions())))
    try:
        yield
    finally:
        set_img_extensions(before)


def class_names_of(reader: Any) -> Names:
    """The names of the classes that one of timm's readers knows, in the order of their numbers."""
    classes = getattr(reader, "class_to_idx", None) or getattr(reader, "class_name_to_idx", None)
    return tuple(sorted(classes, key=classes.get)) if classes else None


def labels_of(dataset: Any, where: str = "the data set") -> list[int]:
    """The labels, if possible without reading the images; -1 for a missing label.

    Raises:
        ValueError: if a label is no class number.
    """
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

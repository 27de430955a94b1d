"""Marks of a split: what tells its images from other images (number, labels, names, contents).

A run stores the marks of its data, and compares them when it reads the data again.
"""

from __future__ import annotations

import hashlib
import os
import stat
import zlib
from collections.abc import Iterator, Mapping
from typing import Any

from accuracy_booster.data.encoded_images import EncodedImages
from accuracy_booster.data.images import Images, TensorImages, UnreadableImage

GROUPS = 1024  # of files, each with one hash, so that the few files that changed are found quickly
CHEAP = 64 * 2**20  # bytes: if all files have no more, their bytes are hashed, else their sizes
DIGITS = 8  # of a group's hash


def marks_of(images: Images) -> dict[str, Any]:
    """The marks of a split, as values for a JSON file:

    images     the number of images
    labels     a hash of their labels; a detector's data have `annotations`, of boxes and labels
    names      a hash of the files' names, if the images have names
    pixels     a hash of the pixels, if the images are in memory
    contents   the hashes of up to `GROUPS` groups of files, one after the other. File i is in group
               i % GROUPS. A hash is of the files' sizes, and also of their bytes if all files have
               no more than `CHEAP` bytes
    whole      whether `contents` is also of the bytes
    """
    marks: dict[str, Any] = {"images": len(images), **images.annotated()}
    if images.names is not None:
        sha = hashlib.sha256()
        for name in images.names:
            sha.update(name.encode("utf-8", "surrogateescape") + b"\0")
        marks["names"] = sha.hexdigest()[:16]
    if isinstance(images, TensorImages):
        marks["pixels"] = hashlib.sha256(images.images.contiguous().numpy().data).hexdigest()[:16]
    elif isinstance(images, EncodedImages):
        sizes = list(_sizes(images))
        whole = None not in sizes and sum(size or 0 for size in sizes) <= CHEAP
        marks |= {"contents": _contents(images, sizes, whole), "whole": whole}
    return marks


def _sizes(images: EncodedImages) -> Iterator[int | None]:
    """The size of each encoded image in bytes; None for a file that cannot be read."""
    from accuracy_booster.progress import track

    for index in track(range(len(images)), f"Looking at the files of {images.source}"):
        try:
            encoded = images.read(index)
            if isinstance(encoded, bytes):
                yield len(encoded)
                continue
            found = os.stat(encoded)
            yield found.st_size if stat.S_ISREG(found.st_mode) else None
        except (OSError, ValueError):
            yield None


def _contents(images: EncodedImages, sizes: list[int | None], whole: bool) -> str:
    """The hashes of the groups, as `marks_of` describes them."""
    count = min(GROUPS, len(images))
    hashes = [0] * count
    for index, size in enumerate(sizes):
        hashes[index % count] = zlib.crc32(str(size).encode(), hashes[index % count])
        if whole:
            hashes[index % count] = zlib.crc32(_bytes(images, index), hashes[index % count])
    return "".join(f"{value:0{DIGITS}x}" for value in hashes)


def _bytes(images: EncodedImages, index: int) -> bytes:
    encoded = images.read(index)
    if isinstance(encoded, bytes):
        return encoded
    try:
        with open(encoded, "rb") as f:
            return f.read()
    except OSError:
        return b""


def difference(images: EncodedImages | None, now: Mapping[str, Any], known: Any) -> str:
    """How images with the marks `now` differ from those with the marks `known`, as text, or "".

    A group of files is not reported as changed if one of them cannot be read as an image: a file
    that was damaged since then is not other data, and a training counts and skips it.
    """
    before = _mapping(known)
    if now["images"] != before.get("images", now["images"]):
        return f"{now['images']} images and had {before['images']} images"
    kinds = {"labels": "labels", "annotations": "annotations", "names": "file names"}
    for name, what in {**kinds, "pixels": "pixels"}.items():
        if name in now and name in before and now[name] != before[name]:
            return f"other {what} in its {now['images']} images"
    alike = now.get("whole") == before.get("whole")
    if images is None or "contents" not in now or "contents" not in before or not alike:
        return ""
    for group in _changed(str(now["contents"]), str(before["contents"])):
        count = min(GROUPS, len(images))
        if all(_is_readable(images, index) for index in range(group, len(images), count)):
            return f"other contents in the files of its {now['images']} images"
    return ""


def _mapping(known: Any) -> Mapping[str, Any]:
    """Marks as a mapping. Older versions wrote the text "16 images, labels 1a2b3c4d"."""
    if isinstance(known, Mapping):
        return known
    count, _, labels = str(known).partition(" images, labels ")
    return {"images": int(count), "labels": labels} if count.isdigit() else {}


def _changed(now: str, before: str) -> list[int]:
    """The groups whose hashes differ."""
    starts = range(0, len(now), DIGITS)
    return [i // DIGITS for i in starts if now[i : i + DIGITS] != before[i : i + DIGITS]]


def _is_readable(images: Images, index: int) -> bool:
    try:
        images[index]
    except UnreadableImage:
        return False
    return True

"""Image data sets as map-style datasets of (uint8 tensor [C, H, W], class index)."""

# N batch, C channels, H W space

from __future__ import annotations

import io
import os
import stat
import warnings
import zlib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image, UnidentifiedImageError
from torch.utils.data import Dataset

from accuracy_booster.data.choices import SMALL
from accuracy_booster.data.image_files import NOT_READ, same_name
from accuracy_booster.data.pixels import to_rgb, upright_size
from accuracy_booster.progress import printable

Item = tuple[torch.Tensor, Any]  # a class index, or what a detector learns of an image
LARGEST = 178_956_970  # pixels of an image: Pillow's own bound, also where that is lifted


class Images(Dataset[Item]):
    """A data set whose labels are known without reading an image."""

    labels: torch.Tensor  # [N] int64
    names: Sequence[str] | None = None  # of the files, below the split's folder
    unreadable: tuple[str, ...] = ()  # what was left out when the images were read, and why

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: int) -> Item:
        raise NotImplementedError

    def where(self, index: int) -> str:
        """What names an image in a message: its file, or its number."""
        return f"number {index}"

    def annotated(self) -> dict[str, str]:
        """A hash of what the images are annotated with, by its kind."""
        labels = self.labels.to(torch.int32).numpy().tobytes()
        return {"labels": f"{zlib.crc32(labels):08x}"}


class TensorImages(Images):
    """Images in memory, uint8 [N, C, H, W]."""

    def __init__(self, images: torch.Tensor, labels: Sequence[int] | torch.Tensor):
        self.images = images
        self.labels = torch.as_tensor(labels, dtype=torch.int64)

    def __getitem__(self, index: int) -> Item:
        return self.images[index], int(self.labels[index])


class UnreadableImage(ValueError):
    """An image that does not decode. One line, also from a worker process with its traceback."""

    def __init__(self, message: str):
        super().__init__(message.strip().splitlines()[-1].split(f"{type(self).__name__}: ")[-1])


class TooManyPixels(ValueError):
    """An image of a shape that takes too much memory to resize."""


class EncodedImages(Images):
    """Images that are decoded when asked for: `read(i)` gives a path or the bytes of a file."""

    def __init__(
        self, read: Callable[[int], bytes | str], labels: Sequence[int] | torch.Tensor, source: str
    ):
        self.read = read
        self.labels = torch.as_tensor(labels, dtype=torch.int64)
        self.source = source
        if isinstance(read, ReadPath) and read.root:
            self.names = _Names(read)

    def open(self, index: int) -> Image.Image:
        """The image, its header read and its pixels not yet."""
        try:
            return self._checked(Image.open(self._file(index)))
        except Exception as e:  # Pillow's decoders raise what they like
            raise self._unreadable(index, e) from e

    def _file(self, index: int) -> io.BytesIO | str:
        encoded = self.read(index)
        size, regular = len(encoded), True
        if isinstance(encoded, str):
            found = os.stat(encoded)
            size, regular = found.st_size, stat.S_ISREG(found.st_mode)
        if not regular:  # a pipe has no end
            raise ValueError("it is no regular file")
        if not size:
            raise ValueError("it is empty")
        return io.BytesIO(encoded) if isinstance(encoded, bytes) else encoded

    @staticmethod
    def _checked(image: Image.Image) -> Image.Image:
        """Refuse what would take too much memory, or another program, to decode."""
        pixels = image.width * image.height
        reason = ""
        if image.format in NOT_READ:
            reason = f"it is {image.format}, which needs another program to be read"
        elif pixels > LARGEST:
            reason = (
                f"its {image.height} x {image.width} pixels are {pixels:,}, more than {LARGEST:,}"
            )
        elif not pixels:
            reason = "it has no pixels"
        if reason:
            image.close()
            raise ValueError(reason)
        return image

    def __getitem__(self, index: int) -> Item:
        with self.open(index) as image:
            try:
                pixels = np.array(to_rgb(image))
            except Exception as e:
                raise self._unreadable(index, e) from e
        return torch.from_numpy(pixels).permute(2, 0, 1), int(self.labels[index])

    def where(self, index: int) -> str:
        try:
            encoded = self.read(index)
        except Exception:
            encoded = b""
        if encoded and isinstance(encoded, str):
            return printable(encoded)
        return f"{printable(self.source)}, row {index}"

    def _unreadable(self, index: int, error: Exception) -> UnreadableImage:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        if isinstance(error, MemoryError):
            reason = "there is not enough memory to decode it"
        elif isinstance(error, UnidentifiedImageError):
            reason = "it is no image of a kind that Pillow reads here"
        elif isinstance(error, OSError) and error.strerror:
            reason = error.strerror
        where = self.where(index)
        return UnreadableImage(f"cannot read the image {where}: {printable(reason)}")


class Subset(Images):
    """Some of the images of another data set."""

    def __init__(self, images: Images, indices: Sequence[int]):
        self.images, self.indices = images, list(indices)
        self.labels = images.labels[self.indices]

    def __getitem__(self, index: int) -> Item:
        return self.images[self.indices[index]]

    def where(self, index: int) -> str:
        return self.images.where(self.indices[index])


class Transformed(Dataset[Item]):
    """Images with a transform of the tensor (torchvision.transforms.v2)."""

    def __init__(self, images: Images, transform: Callable[[torch.Tensor], torch.Tensor]):
        self.images, self.transform = images, transform

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> Item:
        image, label = self.images[index]
        try:
            return self.transform(image), label
        except TooManyPixels as e:
            where = self.images.where(index)
            raise UnreadableImage(f"cannot read the image {where}: {e}") from e


def native_size(images: Images, samples: int = 32) -> tuple[int, int] | None:
    """(H, W) if the images are small and, as far as `samples` of them tell, all of one size."""
    if isinstance(images, TensorImages):
        return images.images.shape[2], images.images.shape[3]
    assert isinstance(images, EncodedImages)
    sizes, reasons = set(), []
    for index in np.linspace(0, len(images) - 1, min(samples, len(images))).astype(int):
        try:
            with images.open(int(index)) as image:
                sizes.add(upright_size(image))
        except UnreadableImage as e:
            reasons.append(str(e))  # told when the images are read
    if not sizes:
        some = f" that were tried, of {len(images)}," if len(reasons) < len(images) else ""
        raise ValueError(
            f"none of {len(reasons)} images{some} of {printable(images.source)} can be read; the "
            f"first: {reasons[0]}"
        )
    size = sizes.pop()
    return size if not sizes and max(size) <= SMALL else None


def in_memory(
    images: Images, size: tuple[int, int], limit: int = 1 << 30, classes: Sequence[str] = ()
) -> Images:
    """Decode all images of `size` once, with a progress bar, if they fit in `limit` bytes.

    Where one turns out to have another size, the images stay encoded. Unreadable ones are left out
    and told in `unreadable`; a warning names each of the `classes` that loses all its images so.

    Raises:
        ValueError: if no image can be read.
    """
    height, width = size
    if not isinstance(images, EncodedImages) or len(images) * 3 * height * width > limit:
        return images
    from accuracy_booster.progress import track

    decoded = torch.empty(len(images), 3, height, width, dtype=torch.uint8)
    kept: list[int] = []
    unreadable: dict[int, str] = {}
    for index in track(range(len(images)), f"Reading {images.source}"):
        try:
            image, _ = images[index]
        except UnreadableImage as e:
            unreadable[index] = str(e)
            continue
        if image.shape[1:] != (height, width):
            return images
        decoded[index] = image
        kept.append(index)
    if not kept:
        raise ValueError(
            f"none of {len(images)} images of {printable(images.source)} can be read; the first: "
            f"{next(iter(unreadable.values()))}"
        )
    if unreadable:
        whole = TensorImages(decoded[kept], images.labels[kept])
        whole.unreadable = tuple(unreadable.values())
        _name_lost_classes(images, whole, unreadable, classes)
    else:
        whole = TensorImages(decoded, images.labels)
    if images.names is not None:
        whole.names = [images.names[index] for index in kept]
    return whole


def _name_lost_classes(
    images: EncodedImages, kept: Images, unreadable: dict[int, str], classes: Sequence[str]
) -> None:
    """Warn of each class none of whose images can be read."""
    lost: dict[int, list[str]] = {}
    left = set(kept.labels.tolist())
    for index, reason in unreadable.items():
        if (label := int(images.labels[index])) not in left:
            lost.setdefault(label, []).append(reason)
    for label, reasons in sorted(lost.items())[:5]:
        name = classes[label] if label < len(classes) else label
        warnings.warn(
            f"class {printable(str(name))} of {printable(images.source)} is left without images: "
            f"none of its {len(reasons)} can be read; the first: {reasons[0]}",
            stacklevel=2,
        )


class ReadPath:
    """`read` for a list of files, below `root` where that is given."""

    def __init__(self, paths: Sequence[str | Path], root: str = ""):
        self.paths = [str(path) for path in paths]
        self.root = root

    def __call__(self, index: int) -> str:
        return self.paths[index]


class _Names(Sequence[str]):
    """The paths below the root, the same on every system."""

    def __init__(self, read: ReadPath):
        self.read = read

    def __len__(self) -> int:
        return len(self.read.paths)

    def __getitem__(self, index: Any) -> Any:
        path = self.read.paths[index][len(self.read.root) :]
        return same_name(path.replace(os.sep, "/").lstrip("/"))

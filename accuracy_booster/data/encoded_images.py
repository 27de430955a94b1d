"""Images that stay encoded, in files or in memory, and are decoded when they are asked for.

`folders`, `parquet`, `timm_sources`, `tars` and `detection` make such data sets.
"""

# N images, C channels, H W space

from __future__ import annotations

import io
import os
import stat
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image, UnidentifiedImageError

from accuracy_booster.data.image_files import NOT_READ, same_name
from accuracy_booster.data.images import Images, Item, UnreadableImage
from accuracy_booster.data.pixels import to_pixels
from accuracy_booster.progress import printable

LARGEST = 178_956_970  # pixels of an image: Pillow's own bound, also where a user has lifted that


class EncodedImages(Images):
    """Images that are decoded when they are asked for.

    Args:
        read: gives the path of an image's file, or the bytes of the file, by the image's number.
        source: the data set's name in messages.

    Attributes:
        channels: as what an image is read: 3 is colour, 1 is grey.
    """

    converts = True

    def __init__(
        self, read: Callable[[int], bytes | str], labels: Sequence[int] | torch.Tensor, source: str
    ):
        self.read = read
        self.labels = torch.as_tensor(labels, dtype=torch.int64)
        self.source = source
        if isinstance(read, ReadPath) and read.root:
            self.names = _Names(read)

    def open(self, index: int) -> Image.Image:
        """The image. Its header is read, its pixels are not yet decoded.

        Raises:
            UnreadableImage: if it is no image, or one that is too large.
        """
        try:
            return self._checked(Image.open(self._file(index)))
        except Exception as e:  # Pillow's decoders raise errors of any kind
            raise self._unreadable(index, e) from e

    def _file(self, index: int) -> io.BytesIO | str:
        encoded = self.read(index)
        size, regular = len(encoded), True
        if isinstance(encoded, str):
            found = os.stat(encoded)
            size, regular = found.st_size, stat.S_ISREG(found.st_mode)
        if not regular:  # reading a pipe may never end
            raise ValueError("it is no regular file")
        if not size:
            raise ValueError("it is empty")
        return io.BytesIO(encoded) if isinstance(encoded, bytes) else encoded

    @staticmethod
    def _checked(image: Image.Image) -> Image.Image:
        """Refuse an image whose decoding would take too much memory or run another program."""
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
                pixels = np.array(to_pixels(image, self.channels))
            except Exception as e:  # as above
                raise self._unreadable(index, e) from e
        pixels = pixels.reshape(*pixels.shape[:2], self.channels)
        return torch.from_numpy(pixels).permute(2, 0, 1), int(self.labels[index])

    def where(self, index: int) -> str:
        try:
            encoded = self.read(index)
        except Exception:  # whatever is wrong with the image, it has a number
            encoded = b""
        if encoded and isinstance(encoded, str):
            return printable(encoded)
        return f"{printable(self.source)}, row {index}"

    def _unreadable(self, index: int, error: Exception) -> UnreadableImage:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        if isinstance(error, MemoryError):
            reason = "there is not enough memory to decode it"
        elif isinstance(error, (UnidentifiedImageError, ImportError)):
            # ultralytics replaces Image.open by one that then looks for further packages
            reason = "it is no image of a kind that Pillow reads here"
        elif isinstance(error, OSError) and error.strerror:
            reason = error.strerror
        where = self.where(index)
        return UnreadableImage(f"cannot read the image {where}: {printable(reason)}")


class ReadPath:
    """`read` for a list of files. If all lie below a folder `root`, the images have names."""

    def __init__(self, paths: Sequence[str | Path], root: str = ""):
        self.paths = [str(path) for path in paths]
        self.root = root

    def __call__(self, index: int) -> str:
        return self.paths[index]


class _Names(Sequence[str]):
    """The files' paths below the root, written in the same way on every system."""

    def __init__(self, read: ReadPath):
        self.read = read

    def __len__(self) -> int:
        return len(self.read.paths)

    def __getitem__(self, index: Any) -> Any:
        path = self.read.paths[index][len(self.read.root) :]
        return same_name(path.replace(os.sep, "/").lstrip("/"))

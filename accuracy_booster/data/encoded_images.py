"""Images that stay encoded, in files or in memory, and are decoded when they are asked for.

`folders`, `parquet`, `timm_sources`, `tars` and `detection` make such data sets.
"""

# N images, C channels, H W space

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from PIL import Image

from accuracy_booster.data.decoding import decoded, open_image, unreadable
from accuracy_booster.data.image_errors import UnreadableImage
from accuracy_booster.data.image_files import same_name
from accuracy_booster.data.images import Images, Item
from accuracy_booster.progress import printable


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
            return open_image(self.read(index))
        except Exception as e:  # Pillow's decoders raise errors of any kind
            raise self._unreadable(index, e) from e

    def __getitem__(self, index: int) -> Item:
        with self.open(index) as image:
            try:
                pixels = decoded(image, self.channels)
            except Exception as e:  # as above
                raise self._unreadable(index, e) from e
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
        return unreadable(self.where(index), error)


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

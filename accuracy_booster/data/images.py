"""Image data sets as map-style datasets of (uint8 tensor [C, H, W], class index)."""

# N batch, C channels, H W space

from __future__ import annotations

import io
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch.utils.data import Dataset

from accuracy_booster.data.files import same_name

Item = tuple[torch.Tensor, int]
ORIENTATION = 0x0112  # the EXIF tag; from 5 on height and width change places
TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
SMALL = 64  # pixels: images no larger are kept decoded in memory, at their own size


class Images(Dataset[Item]):
    """A data set whose labels are known without reading an image."""

    labels: torch.Tensor  # [N] int64
    names: Sequence[str] | None = None  # of the files, below the split's folder
    unreadable: tuple[str, ...] = ()  # what was left out when the images were read, and why

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: int) -> Item:
        raise NotImplementedError


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
        encoded = self.read(index)
        try:
            return Image.open(io.BytesIO(encoded) if isinstance(encoded, bytes) else encoded)
        except Exception as e:  # Pillow's decoders raise what they like
            raise self._unreadable(index, encoded, e) from e

    def __getitem__(self, index: int) -> Item:
        with self.open(index) as image:
            try:
                pixels = np.array(to_rgb(image))
            except Exception as e:
                raise self._unreadable(index, getattr(image, "filename", b""), e) from e
        return torch.from_numpy(pixels).permute(2, 0, 1), int(self.labels[index])

    def _unreadable(self, index: int, encoded: bytes | str, error: Exception) -> UnreadableImage:
        where = encoded if encoded and isinstance(encoded, str) else f"{self.source}, row {index}"
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        return UnreadableImage(f"cannot read the image {where}: {reason}")


def to_rgb(image: Image.Image) -> Image.Image:
    """An image as a viewer shows it: upright, 8 bits, and over white where it is transparent.

    The pixels under a transparent place hold whatever the program that wrote them left there.
    """
    image.load()
    turn = TURNS.get(_orientation(image))
    if turn is not None:
        image = image.transpose(turn)
    if image.mode.startswith("I") or image.mode == "F":
        return Image.fromarray(_eight_bits(np.array(image))).convert("RGB")
    if image.has_transparency_data:
        image = image.convert("RGBA")
        return Image.alpha_composite(Image.new("RGBA", image.size, "white"), image).convert("RGB")
    return image.convert("RGB")


def _orientation(image: Image.Image) -> int:
    try:
        return image.getexif().get(ORIENTATION, 1)
    except Exception:  # damaged EXIF data do not make an image unreadable
        return 1


def _upright_size(image: Image.Image) -> tuple[int, int]:
    """(H, W) as `to_rgb` gives it; Pillow turns TIFF itself."""
    size = image.height, image.width
    # a PNG's orientation may stand behind its pixels: only a small one is read for it
    turned = max(size) <= SMALL and image.format != "TIFF" and _orientation(image) >= 5
    return size[::-1] if turned else size


def _eight_bits(values: np.ndarray) -> np.ndarray:
    """The high byte of 16 bits, as OpenCV takes it; fractions up to 1 are of full brightness."""
    if values.dtype.kind == "f":
        values = np.nan_to_num(values)
        scale = 255 if values.max() <= 1 else 1 if values.max() <= 255 else 1 / 256
        return np.clip(np.rint(values * scale), 0, 255).astype(np.uint8)
    wide = values.dtype.itemsize == 2 or values.max() > 255
    return np.clip(values >> 8 if wide else values, 0, 255).astype(np.uint8)


class Subset(Images):
    """Some of the images of another data set."""

    def __init__(self, images: Images, indices: Sequence[int]):
        self.images, self.indices = images, list(indices)
        self.labels = images.labels[self.indices]

    def __getitem__(self, index: int) -> Item:
        return self.images[self.indices[index]]


class Transformed(Dataset[Item]):
    """Images with a transform of the tensor (torchvision.transforms.v2)."""

    def __init__(self, images: Images, transform: Callable[[torch.Tensor], torch.Tensor]):
        self.images, self.transform = images, transform

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> Item:
        image, label = self.images[index]
        return self.transform(image), label


def native_size(images: Images, samples: int = 32) -> tuple[int, int] | None:
    """(H, W) if the images are small and, as far as `samples` of them tell, all of one size."""
    if isinstance(images, TensorImages):
        return images.images.shape[2], images.images.shape[3]
    assert isinstance(images, EncodedImages)
    sizes, reasons = set(), []
    for index in np.linspace(0, len(images) - 1, min(samples, len(images))).astype(int):
        try:
            with images.open(int(index)) as image:
                sizes.add(_upright_size(image))
        except UnreadableImage as e:
            reasons.append(str(e))  # told when the images are read
    if not sizes:
        number = len(reasons)
        raise ValueError(f"none of {number} images of {images.source} can be read: {reasons[0]}")
    size = sizes.pop()
    return size if not sizes and max(size) <= SMALL else None


def in_memory(images: Images, size: tuple[int, int], limit: int = 1 << 30) -> Images:
    """Decode all images of `size` once, with a progress bar, if they fit in `limit` bytes.

    Where one turns out to have another size, the images stay encoded. Unreadable ones are left out
    and told in `unreadable`.
    """
    height, width = size
    if not isinstance(images, EncodedImages) or len(images) * 3 * height * width > limit:
        return images
    from accuracy_booster.progress import track

    decoded = torch.empty(len(images), 3, height, width, dtype=torch.uint8)
    kept, unreadable = [], []
    for index in track(range(len(images)), f"Reading {images.source}"):
        try:
            image, _ = images[index]
        except UnreadableImage as e:
            unreadable.append(str(e))
            continue
        if image.shape[1:] != (height, width):
            return images
        decoded[index] = image
        kept.append(index)
    if unreadable:
        whole = TensorImages(decoded[kept], images.labels[kept])
        whole.unreadable = tuple(unreadable)
    else:
        whole = TensorImages(decoded, images.labels)
    if images.names is not None:
        whole.names = [images.names[index] for index in kept]
    return whole


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

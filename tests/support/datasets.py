"""Helpers of the data tests: pixels of a data set, small images, and errors of one line."""

# N batch, C channels, H W space

from __future__ import annotations

import io
import warnings
from contextlib import contextmanager

import numpy as np
import pytest
import torch
from PIL import Image

from accuracy_booster.cli import main
from accuracy_booster.data import (
    Data,
    load_data,
)
from accuracy_booster.data.images import TensorImages


@contextmanager
def one_line(pattern: str):
    """A ValueError of one line that matches, whose text is no longer than a user will read."""
    with pytest.raises(ValueError, match=pattern) as caught:
        yield caught
    message = str(caught.value)
    assert "\n" not in message
    assert len(message) < 700, message


def chw(picture: np.ndarray) -> torch.Tensor:
    """[H, W, C] -> [C, H, W]"""
    return torch.from_numpy(picture).permute(2, 0, 1)


def everything(data: Data, split: str) -> tuple[torch.Tensor, torch.Tensor]:
    """The split in one pass of its loader."""
    batches = list(data.loaders[split])
    return torch.cat([images for images, _ in batches]), torch.cat(
        [labels for _, labels in batches]
    )


def raw(data: Data, split: str) -> tuple[list[bytes], list[int]]:
    """The split's pixels and labels, without augmentation and in the order of the data set."""
    items = [data.loaders[split].dataset.images[i] for i in range(len(data.loaders[split].dataset))]
    return [image.numpy().tobytes() for image, _ in items], [label for _, label in items]


def is_in_memory(data: Data, split: str) -> bool:
    return isinstance(data.loaders[split].dataset.images, TensorImages)


IMAGE_FEATURE = {"_type": "Image"}
NAMES = ["ant", "bee", "cow"]


def class_label(names=NAMES) -> dict:
    return {"_type": "ClassLabel", "names": list(names)}


def structs(encoded: list[bytes]) -> list[dict]:
    return [{"bytes": data, "path": None} for data in encoded]


def crops(picture: torch.Tensor, pad: tuple[int, int], mirrored: bool) -> set[bytes]:
    """All crops, of its own size, of [C, H, W] with `pad` rows and columns of zeros around it."""
    height, width = picture.shape[1:]
    wide = np.pad(picture.numpy(), ((0, 0), (pad[0],) * 2, (pad[1],) * 2))
    found = [
        wide[:, y : y + height, x : x + width]
        for y in range(2 * pad[0] + 1)
        for x in range(2 * pad[1] + 1)
    ]
    return {np.ascontiguousarray(c[:, :, ::-1] if mirrored else c).tobytes() for c in found}


def image_numbers(data: Data, split: str) -> list[list[int]]:
    """The images of each batch by number; padding of an augmented image leaves its centre."""
    return [(images[:, 0, 4, 4] // 20).tolist() for images, _ in data.loaders[split]]


def names(data, split: str) -> list[str]:
    """The files of a split below its folder, from the data set itself."""
    images = data.loaders[split].dataset.images
    if hasattr(images, "indices"):
        return [images.images.names[i] for i in images.indices]
    return [images.names[i] for i in range(len(images))]


def labels(data, split: str = "test") -> list[int]:
    return data.loaders[split].dataset.images.labels.tolist()


def sentence(error) -> str:
    text = str(error.value)
    assert "\n" not in text
    assert len(text) < 700, text
    return text


def quiet(*args, **options):
    """load_data where no remark is due."""
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        return load_data(*args, **options)


def shown(data, split: str = "test") -> torch.Tensor:
    return torch.stack([image for image, _ in data.loaders[split].dataset])


def arrow(kind: str, values):
    import pyarrow as pa

    if kind == "dictionary":
        return pa.array(values).dictionary_encode()
    if kind == "dictionary of large":
        return pa.array(values, pa.large_string()).dictionary_encode()
    return pa.array(values, getattr(pa, kind)())


def hwc(image: torch.Tensor) -> np.ndarray:
    return image.permute(1, 2, 0).numpy()


def only_image(data, split: str = "test") -> np.ndarray:
    (images, _), *_ = data.loaders[split]
    return hwc(images[0])


TRAIN = ("train", "--model", "resnet8", "--device", "cpu", "--epochs", "1", "--batch_size", "4")


def run(*words, capsys) -> str:
    """The last line that a command prints, which must be an error without a traceback."""
    capsys.readouterr()
    assert main([*map(str, words)]) in (1, 2)
    told = capsys.readouterr().err
    assert "Traceback" not in told
    last = told.strip().splitlines()[-1]
    assert last.startswith("accuracy-booster: error: ")
    return last


def one_bit_png(height, width) -> bytes:
    file = io.BytesIO()
    Image.new("1", (width, height)).save(file, "PNG")
    return file.getvalue()


def cut(png, pixels, side, count=4):
    return [png(pixels(str(i), side, side))[:100] for i in range(count)]

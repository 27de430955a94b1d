"""The images of a data set that the caller gives, in the form that everything here takes.

`dataset_source` makes them.
"""

# C channels, H W space

from __future__ import annotations

import multiprocessing
import pickle
import random
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from PIL import Image

from accuracy_booster.data.images import Images, Item, UnreadableImage
from accuracy_booster.data.pixel_tensors import recoloured, rgb_tensor
from accuracy_booster.errors import shortened, shown

# a bicubic resize overshoots by so much; what is further outside was normalised
OVERSHOOT = 0.2
IMAGE_NAMES = ("image", "img", "pixel_values", "images", "x")
LABEL_NAMES = ("label", "labels", "target", "fine_label", "class", "y")
SAMPLES = 8  # images that are read twice, to see whether they are the same each time


class WrongItem(ValueError):
    """An item is not what a data set must give. It is not skipped as an unreadable image is."""


class DatasetImages(Images):
    """The images of a data set by number: uint8 [C, H, W], with its own transforms applied.

    Attributes:
        dataset: what the caller gave.
        source: its name in messages.
        given: C of an image, as the data set gives it.

    Raises:
        WrongItem: if the first item is no image with a label.
    """

    converts = True

    def __init__(
        self, dataset: Any, source: str, image_column: str | None, label_column: str | None
    ):
        self.dataset, self.source = dataset, source
        self.image_key: Any = 0
        self.label_key: Any = 1
        first = self._first()
        if isinstance(first, Mapping):
            self.image_key = _column(first, image_column, IMAGE_NAMES, "image", source)
            self.label_key = _column(first, label_column, LABEL_NAMES, "label", source)
        elif not isinstance(first, (tuple, list)) or len(first) < 2:
            raise WrongItem(
                f"an item of {source} is {type(first).__name__}; it must be (image, label), or a "
                'mapping such as {"image": ..., "label": ...}'
            )
        self.given = self.channels = int(as_pixels(first[self.image_key], source).shape[0])

    def _first(self) -> Any:
        """The first item that can be read."""
        reasons = []
        for index in range(min(len(self.dataset), 32)):
            try:
                return self.dataset[index]
            except Exception as e:  # of the caller's code
                reasons.append(f"{type(e).__name__}: {' '.join(str(e).split())}")
        raise ValueError(
            f"none of {len(reasons)} items of {self.source} can be read; the first: "
            f"{shortened(reasons[0], 300)}"
        )

    def __len__(self) -> int:
        return len(self.dataset)

    def item(self, index: int) -> Any:
        """What the data set gives.

        Raises:
            UnreadableImage: if it raises anything.
        """
        try:
            return self.dataset[index]
        except Exception as e:  # of the caller's code, and of Pillow's decoders
            reason = shortened(f"{type(e).__name__}: {' '.join(str(e).split())}", 300)
            raise UnreadableImage(f"cannot read the image {self.where(index)}: {reason}") from e

    def __getitem__(self, index: int) -> Item:
        found = self.item(index)[self.image_key]
        try:
            image = as_pixels(found, self.where(index))
        except WrongItem:
            raise
        except Exception as e:  # Pillow decodes some images only now
            raise UnreadableImage(f"cannot read the image {self.where(index)}: {e}") from e
        if image.shape[0] != self.given:
            raise WrongItem(
                f"{self.where(index)} has {image.shape[0]} channels and the first image has "
                f"{self.given}; convert all of them, as image.convert('RGB') does"
            )
        return recoloured(image, self.channels), int(self.labels[index])

    def where(self, index: int) -> str:
        return f"{self.source}, number {index}"

    def sizes(self, samples: int) -> list[tuple[int, int]]:
        """(H, W) of some images that can be read.

        Raises:
            ValueError: if none can.
        """
        found, reasons = [], []
        for index in _some(len(self), samples):
            try:
                found.append(tuple(self[index][0].shape[1:]))
            except UnreadableImage as e:
                reasons.append(str(e))
        if not found:
            raise ValueError(f"no image of {self.source} can be read; the first: {reasons[0]}")
        return found  # type: ignore[return-value]

    def is_random(self) -> bool:
        """Whether an image is another one when it is read again, as far as some of them tell."""
        states = torch.get_rng_state(), random.getstate(), np.random.get_state()
        try:
            for index in _some(len(self), SAMPLES):
                read = []
                for seed in (2 * index, 2 * index + 1):
                    torch.manual_seed(seed)
                    random.seed(seed)
                    np.random.seed(seed % 2**32)
                    try:
                        read.append(self[index][0])
                    except UnreadableImage:
                        break
                if len(read) == 2 and not torch.equal(*read):
                    return True
            return False
        finally:
            torch.set_rng_state(states[0])
            random.setstate(states[1])
            np.random.set_state(states[2])

    def check_workers(self, workers: int) -> None:
        """Raise ValueError if the data set cannot be sent to the processes that load images."""
        if not workers or multiprocessing.get_start_method() == "fork":
            return
        try:
            pickle.dumps(self.dataset)
        except Exception as e:  # pickle raises errors of any kind
            raise ValueError(
                f"workers={workers}, and {self.source} cannot be sent to another process "
                f"({type(e).__name__}: {shortened(str(e), 200)}); use workers=0, or functions "
                "and classes of a module in it, no lambda and no open file"
            ) from e


def _some(count: int, samples: int) -> list[int]:
    return sorted({int(i) for i in np.linspace(0, count - 1, min(samples, count))})


def _column(
    item: Mapping[str, Any], given: str | None, usual: tuple[str, ...], what: str, source: str
) -> str:
    """The name of a column of an item."""
    columns = list(map(str, item))
    if given is not None:
        if given not in item:
            raise ValueError(f"{what}_column={given!r} must be one of {', '.join(columns)}")
        return given
    pictures = [n for n, v in item.items() if isinstance(v, Image.Image)]
    found = [n for n in usual if n in item]
    if what == "image" and len(pictures) == 1:
        return str(pictures[0])
    if not found:
        raise WrongItem(
            f"which column of {source} holds the {what}? name it with {what}_column (columns: "
            f"{', '.join(columns)})"
        )
    return found[0]


def as_pixels(image: Any, where: str) -> torch.Tensor:
    """An image of any kind that data sets give -> uint8 [C, H, W].

    PIL images become RGB. Tensors are [C, H, W] or [H, W], arrays [H, W, C] or [H, W]; uint8, or
    floating-point in [0, 1].

    Raises:
        WrongItem: for anything else. Values far outside [0, 1] were normalised.
    """
    if isinstance(image, Image.Image):
        return rgb_tensor(image)
    is_array = isinstance(image, np.ndarray)
    if not is_array and not isinstance(image, torch.Tensor):
        raise WrongItem(
            f"the image of {where} is {shown(image)}; it must be a PIL image, a tensor [C, H, W] "
            "or an array [H, W, C]"
        )
    pixels = torch.as_tensor(np.ascontiguousarray(image) if is_array else image).detach().cpu()
    if pixels.ndim == 2:
        pixels = pixels[None]
    elif is_array and pixels.ndim == 3:
        pixels = pixels.permute(2, 0, 1)
    if pixels.ndim != 3 or not 1 <= pixels.shape[0] <= 16 or not pixels.numel():
        raise WrongItem(
            f"the image of {where} has the shape {list(image.shape)}; a tensor is [C, H, W] and "
            "an array [H, W, C], with up to 16 channels"
        )
    if pixels.dtype == torch.uint8:
        return pixels.contiguous()
    if not pixels.is_floating_point():
        raise WrongItem(
            f"the image of {where} holds {pixels.dtype}; give uint8, or floating-point values in "
            "[0, 1]"
        )
    low, high = pixels.min().item(), pixels.max().item()
    if not -OVERSHOOT <= low <= high <= 1 + OVERSHOOT:
        remedy = (
            "leave Normalize out of its transform, since a training normalises by mean and std"
            if low < -OVERSHOOT or high <= 100
            else "divide by 255, or give uint8"
        )
        raise WrongItem(
            f"the image of {where} has values from {low:.3g} to {high:.3g}, outside [0, 1]; "
            f"{remedy}"
        )
    return (pixels.float().clamp(0, 1) * 255).round().to(torch.uint8)

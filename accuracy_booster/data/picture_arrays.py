"""Images that a user gives, as arrays: PIL images, arrays, tensors. Nothing here needs torch.

`pictures` makes tensors of them, for networks of torch.
"""

# C channels, H W space

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np
from PIL import Image

from accuracy_booster.data.decoding import decoded
from accuracy_booster.data.found_images import find_images
from accuracy_booster.data.image_errors import UnreadableImage
from accuracy_booster.errors import shown

if TYPE_CHECKING:
    import torch

Picture: TypeAlias = "str | Path | Image.Image | torch.Tensor | np.ndarray"
Numbered = tuple[int, Any]  # an image or the path of one, and its number among what the user gave


def numbered(images: Picture | Iterable[Picture]) -> list[Numbered] | Iterator[Numbered]:
    """(number, image or path) of each given image; a folder or a pattern gives several paths.

    Of one image or a list it is a list: paths are looked up at once, so that a wrong one is an
    error before anything is predicted. Of an iterator it is an iterator. A path that is given
    twice comes twice.

    Raises:
        ValueError: if there are none; and as `find_images`.
    """
    if isinstance(images, (str, Path, Image.Image, np.ndarray)) or is_tensor(images):
        images = _planes(images)
    if not isinstance(images, Iterable):
        raise ValueError(
            f"images={shown(images)} must be files, folders, patterns or images: one, a list or an "
            "iterator of them"
        )
    if not isinstance(images, Sequence):
        return _found(images)
    if not images:
        raise ValueError("no images are given; give files, folders, patterns or images")
    return list(_found(images))


def _planes(image: Any) -> list[Any]:
    """One image, or the images of an array or a tensor with a further dimension, as a list."""
    return list(image) if getattr(image, "ndim", 0) == 4 else [image]


def _found(images: Iterable[Picture]) -> Iterator[Numbered]:
    for number, image in enumerate(images):
        if isinstance(image, (str, Path)):
            for path in find_images([image]):
                yield number, path
        else:
            yield number, image


def is_tensor(value: Any) -> bool:
    """Whether a value is a tensor of torch. Where torch was not imported, there is none."""
    torch = sys.modules.get("torch")
    return torch is not None and isinstance(value, torch.Tensor)


def array_of(image: Any, number: int, chans: int = 3) -> np.ndarray:
    """The upright image as uint8 [H, W, C].

    Args:
        image: a PIL image, a tensor uint8 [C, H, W], or an array uint8 [H, W, C] or [H, W].
        number: of the image among those given, for messages.
        chans: how many channels the network takes, C. Grey values become three equal channels, and
            colours become grey, as in `recoloured_array`.

    Raises:
        UnreadableImage: if it cannot be decoded.
        ValueError: for another kind of image, or a tensor of another shape or type.
    """
    if isinstance(image, Image.Image):
        try:
            pixels = decoded(image, 3)
        except Exception as e:  # Pillow's decoders raise errors of all kinds
            raise UnreadableImage(f"cannot read the image number {number}: {e}") from e
    elif isinstance(image, np.ndarray):
        pixels = _of_array(image, number, chans)
    elif is_tensor(image):
        check_tensor(image, number, chans)
        pixels = image.detach().cpu().permute(1, 2, 0).numpy()
    else:
        raise ValueError(
            f"image number {number} is {type(image).__name__}; give a path, a PIL image, an array "
            "or a tensor"
        )
    return recoloured_array(pixels, chans)


def _of_array(image: np.ndarray, number: int, chans: int) -> np.ndarray:
    allowed = (1, 3, chans)
    if image.dtype != np.uint8 or image.ndim not in (2, 3) or not image.size:
        fits = False
    else:
        fits = image.ndim == 2 or image.shape[2] in allowed
    if not fits:
        raise ValueError(
            f"image number {number} is an array of {image.dtype} {[*image.shape]}; an array "
            "must be uint8 [H, W, 3] or [H, W]"
        )
    return np.ascontiguousarray(image[..., None] if image.ndim == 2 else image)


def check_tensor(image: Any, number: int, chans: int) -> None:
    """Raise ValueError for a tensor that is no image; arguments as for `array_of`."""
    wrong = str(image.dtype) != "torch.uint8" or image.ndim != 3 or not image.numel()
    if wrong or len(image) not in (1, 3, chans):
        raise ValueError(
            f"image number {number} is {image.dtype} {[*image.shape]}; a tensor must be "
            "torch.uint8 [3, H, W]"
        )


def recoloured_array(pixels: np.ndarray, chans: int) -> np.ndarray:
    """uint8 [H, W, 1 or 3] -> uint8 [H, W, chans]: grey as Pillow's, or three equal channels.

    Raises:
        ValueError: for any other number of channels that is not `chans` already.
    """
    now = pixels.shape[2]
    if now == chans:
        return pixels
    if (now, chans) == (1, 3):
        return pixels.repeat(3, axis=2)
    if (now, chans) == (3, 1):
        return np.array(Image.fromarray(pixels).convert("L"))[..., None]
    raise wrong_channels(chans, now)


def wrong_channels(chans: int, now: int) -> ValueError:
    """The error for an image of `now` channels where the network takes `chans`."""
    return ValueError(
        f"the network takes images of {chans} channels, and this one has {now}; give tensors, "
        f"uint8 [{chans}, H, W]"
    )

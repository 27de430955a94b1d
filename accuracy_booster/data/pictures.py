"""Images that a user gives: paths, folders, patterns, PIL images, arrays and tensors.

`prediction` and `detection` find and read the images that they predict here.
"""

# C channels, H W space

from __future__ import annotations

import glob
import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from accuracy_booster.data import image_files
from accuracy_booster.data.encoded_images import EncodedImages, ReadPath
from accuracy_booster.data.images import UnreadableImage
from accuracy_booster.data.pixels import rgb_tensor
from accuracy_booster.errors import shown
from accuracy_booster.progress import note, printable

Picture = str | Path | Image.Image | torch.Tensor | np.ndarray
# the shares of red, green and blue in a grey value, in 65536ths, as Pillow has them (ITU-R 601-2)
_LUMA = (19595, 38470, 7471)


def find_images(paths: Iterable[str | Path]) -> list[str]:
    """The given files, the images below given directories, and what given patterns match.

    The images below a directory are sorted. Each file comes once. A pattern (`*`, `?`, `[...]`, and
    `**` for all folders below) counts where no file of this name is there; of what it matches,
    images and directories are taken.

    Raises:
        ValueError: for a path that does not exist, a directory without images, or a pattern that
            matches none.
    """
    found: dict[str, str] = {}  # {real path: given path}
    for path in map(str, paths):
        if os.path.isdir(path):
            below = _below(path)
        elif os.path.lexists(path):
            below = [path]
        elif glob.has_magic(path):
            below = _matched(path)
        else:
            raise ValueError(f"there is no file or directory {shown(path)}; check the path")
        for file in below:
            found.setdefault(os.path.realpath(file), file)
    return list(found.values())


def _below(path: str) -> list[str]:
    """The images below a directory."""
    inside = image_files.collect({"": [path]}, path)[""]
    others = image_files.kinds(inside.others, image_files.COMPANIONS)
    if not inside.images:
        has = f"; it holds {others} files" if others else ""
        raise ValueError(f"{printable(path)} holds no images that Pillow reads{has}")
    if others:
        note(f"{path}: left out {others} files, which Pillow does not read here")
    return inside.images


def _matched(pattern: str) -> list[str]:
    """The images that a pattern matches, and those below the directories that it matches."""
    known, files = image_files.extensions(), []
    matches = sorted(glob.glob(pattern, recursive=True))
    for path in matches:
        if os.path.isdir(path):
            if "**" not in pattern:  # `**` matches the files below by itself
                files += image_files.collect({"": [path]}, path)[""].images
        elif os.path.splitext(path)[1].lower() in known and not image_files.is_leftover(
            os.path.basename(path)
        ):
            files.append(path)
    if not files:
        has = f", only {_others(len(matches))}" if matches else ""
        raise ValueError(f"the pattern {shown(pattern)} matches no images{has}; check it")
    return files


def _others(count: int) -> str:
    return "1 path that is none" if count == 1 else f"{count:,} paths that are none"


def read(path: str) -> torch.Tensor:
    """The upright image of a file, uint8 [3, H, W].

    Raises:
        UnreadableImage: if it cannot be decoded.
    """
    return EncodedImages(ReadPath([path]), [0], path)[0][0]


def pixels_of(image: Any, number: int, chans: int = 3) -> torch.Tensor:
    """The upright image as uint8 [C, H, W].

    Args:
        image: a PIL image, a tensor uint8 [C, H, W], or an array uint8 [H, W, C] or [H, W].
        number: of the image among those given, for messages.
        chans: how many channels the network takes, C. Grey values become three equal channels, and
            colours become grey, as in `with_channels`.

    Raises:
        UnreadableImage: if it cannot be decoded.
        ValueError: for another kind of image, or a tensor of another shape or type.
    """
    if isinstance(image, Image.Image):
        try:
            pixels = rgb_tensor(image)
        except Exception as e:  # Pillow's decoders raise errors of all kinds
            raise UnreadableImage(f"cannot read the image number {number}: {e}") from e
        return with_channels(pixels, chans)
    if isinstance(image, np.ndarray):
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
        planes = image[..., None] if image.ndim == 2 else image
        return with_channels(torch.from_numpy(np.ascontiguousarray(planes)).permute(2, 0, 1), chans)
    if not isinstance(image, torch.Tensor):
        raise ValueError(
            f"image number {number} is {type(image).__name__}; give a path, a PIL image, an array "
            "or a tensor"
        )
    wrong = image.dtype != torch.uint8 or image.ndim != 3 or not image.numel()
    if wrong or len(image) not in (1, 3, chans):
        raise ValueError(
            f"image number {number} is {image.dtype} {[*image.shape]}; a tensor must be "
            "torch.uint8 [3, H, W]"
        )
    return with_channels(image, chans)


def with_channels(pixels: torch.Tensor, chans: int) -> torch.Tensor:
    """uint8 [1 or 3, H, W] -> uint8 [chans, H, W]: grey as Pillow's, or three equal channels.

    Raises:
        ValueError: for any other number of channels that is not `chans` already.
    """
    if len(pixels) == chans:
        return pixels
    if chans == 3 and len(pixels) == 1:
        return pixels.expand(3, -1, -1)
    if chans == 1 and len(pixels) == 3:
        shares = torch.tensor(_LUMA, dtype=torch.int32, device=pixels.device)[:, None, None]
        total = (pixels.int() * shares).sum(0, keepdim=True, dtype=torch.int32)
        return ((total + 0x8000) >> 16).byte()
    raise ValueError(
        f"the network takes images of {chans} channels, and this one has {len(pixels)}; give "
        f"tensors, uint8 [{chans}, H, W]"
    )

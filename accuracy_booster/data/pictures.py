"""Images that a user gives, as tensors. `prediction` and `detection` read what they predict here.

`found_images` finds the files.
"""

# C channels, H W space

from __future__ import annotations

from typing import Any

import torch

from accuracy_booster.data.decoding import read_image
from accuracy_booster.data.picture_arrays import array_of, check_tensor, wrong_channels
from accuracy_booster.data.pixel_tensors import recoloured


def read(path: str) -> torch.Tensor:
    """The upright image of a file, uint8 [3, H, W].

    Raises:
        UnreadableImage: if it cannot be decoded.
    """
    return torch.from_numpy(read_image(path)).permute(2, 0, 1)


def pixels_of(image: Any, number: int, chans: int = 3) -> torch.Tensor:
    """The upright image as uint8 [C, H, W]; arguments and errors as for `array_of`."""
    if isinstance(image, torch.Tensor):
        check_tensor(image, number, chans)
        return with_channels(image, chans)
    return torch.from_numpy(array_of(image, number, chans)).permute(2, 0, 1)


def with_channels(pixels: torch.Tensor, chans: int) -> torch.Tensor:
    """uint8 [1 or 3, H, W] -> uint8 [chans, H, W]: grey as Pillow's, or three equal channels.

    Raises:
        ValueError: for any other number of channels that is not `chans` already.
    """
    if len(pixels) != chans and {len(pixels), chans} != {1, 3}:
        raise wrong_channels(chans, len(pixels))
    return recoloured(pixels, chans)

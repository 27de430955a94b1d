"""Grey images as colour images and colour as grey: the channels that a network takes.

`loaders` converts what a source gives. Files are decoded as what is wanted.
"""

# N images, C channels, H W space

from __future__ import annotations

import torch

from accuracy_booster.data.encoded_images import EncodedImages
from accuracy_booster.data.images import Images, TensorImages

# Of red, green and blue in 65536ths, as Pillow's convert("L") weights them (ITU-R 601-2 luma).
LUMA = (19595, 38470, 7471)


def channels_of(images: Images) -> int:
    """The channels C of the images."""
    return images.images.shape[1] if isinstance(images, TensorImages) else images.chans


def convert(images: Images, chans: int, name: str) -> None:
    """Give images another number of channels, in place.

    Args:
        name: of the data set, for messages.

    Raises:
        ValueError: unless it is grey (1 channel) that becomes colour (3), or colour grey.
    """
    now = channels_of(images)
    if chans == now:
        return
    if isinstance(images, EncodedImages) and chans in (1, 3):
        images.chans = chans
    elif isinstance(images, TensorImages) and {chans, now} == {1, 3}:
        pixels = images.images
        images.images = to_grey(pixels) if chans == 1 else pixels.expand(-1, 3, -1, -1).contiguous()
    else:
        have = f"{now} channel{'s'[: now != 1]}"
        raise ValueError(
            f"in_chans={chans}, but {name} has images of {have}: only grey images (1) are made "
            "colour (3), and colour images grey"
        )


def to_grey(pixels: torch.Tensor) -> torch.Tensor:
    """uint8 [N, 3, H, W] -> uint8 [N, 1, H, W], the values of Pillow's convert("L")."""
    red, green, blue = (pixels[:, i : i + 1].int() * weight for i, weight in enumerate(LUMA))
    return ((red + green + blue + 0x8000) >> 16).to(torch.uint8)

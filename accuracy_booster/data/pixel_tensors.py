"""Pixels as tensors: those of a Pillow image, and grey as colour or colour as grey."""

# H W space

from __future__ import annotations

import numpy as np
import torch
from PIL import Image

from accuracy_booster.data.pixels import to_rgb

# Of red, green and blue in 65536ths, as Pillow's convert("L") weights them (ITU-R 601-2 luma).
LUMA = (19595, 38470, 7471)


def rgb_tensor(image: Image.Image) -> torch.Tensor:
    """An image as `to_rgb` makes it, uint8 [3, H, W]."""
    return torch.from_numpy(np.array(to_rgb(image))).permute(2, 0, 1)


def recoloured(pixels: torch.Tensor, channels: int) -> torch.Tensor:
    """uint8 [..., C, H, W] -> uint8 [..., channels, H, W]: grey to colour, or colour to grey.

    Grey values are those of Pillow's `convert("L")`.
    """
    if pixels.shape[-3] == channels:
        return pixels
    if channels == 3:
        return pixels.repeat_interleave(3, dim=-3)
    red, green, blue = (p.int() * weight for p, weight in zip(pixels.unbind(-3), LUMA, strict=True))
    return ((red + green + blue + 0x8000) >> 16).to(torch.uint8).unsqueeze(-3)

"""The pixels of an image file as a viewer shows them."""

# H W space

from __future__ import annotations

import numpy as np
from PIL import Image

from accuracy_booster.data.choices import SMALL

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


def upright_size(image: Image.Image) -> tuple[int, int]:
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

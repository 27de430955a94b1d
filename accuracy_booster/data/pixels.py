"""The pixels of an image file as a viewer shows them. Nothing here needs torch.

`decoding`, `picture_arrays` and `detection` use it; `pixel_tensors` has the same as tensors.
"""

# H W space

from __future__ import annotations

import numpy as np
from PIL import Image

from accuracy_booster.data.choices import SMALL

ORIENTATION = 0x0112  # the EXIF tag; its values from 5 on exchange height and width
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
    """An image as a viewer shows it: upright, of 8 bits, and on white where it is transparent.

    The colours under transparent pixels are accidental, so they must not show.
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


def to_pixels(image: Image.Image, chans: int) -> Image.Image:
    """An image as `to_rgb` makes it, of mode RGB (3 channels) or L (1 channel, grey)."""
    picture = to_rgb(image)
    return picture if chans == 3 else picture.convert("L")


def _orientation(image: Image.Image) -> int:
    try:
        return image.getexif().get(ORIENTATION, 1)
    except Exception:  # whatever is wrong with the EXIF data, the image itself can be read
        return 1


def upright_size(image: Image.Image) -> tuple[int, int]:
    """(H, W) of the image that `to_rgb` gives. Pillow itself turns TIFF images."""
    size = image.height, image.width
    # a PNG's orientation may stand behind its pixels, so only small images are read for it
    turned = max(size) <= SMALL and image.format != "TIFF" and _orientation(image) >= 5
    return size[::-1] if turned else size


def _eight_bits(values: np.ndarray) -> np.ndarray:
    """Pixels of more than 8 bits as uint8: the high byte of 16 bits, as OpenCV takes it.

    Fractions are brightness from 0 to 1, or if one is above 1 the values of 8 or 16 bits.
    """
    if values.dtype.kind == "f":
        values = np.nan_to_num(values)
        scale = 255 if values.max() <= 1 else 1 if values.max() <= 255 else 1 / 256
        return np.clip(np.rint(values * scale), 0, 255).astype(np.uint8)
    wide = values.dtype.itemsize == 2 or values.max() > 255
    return np.clip(values >> 8 if wide else values, 0, 255).astype(np.uint8)

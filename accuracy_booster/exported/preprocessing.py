"""Images as the input of an exported network, in numpy: the same numbers as with torch."""

# C channels, H W space

from __future__ import annotations

import numpy as np

from accuracy_booster.data.choices import CROP_MODES, INTERPOLATIONS
from accuracy_booster.data.cropping import Crop, check_pixels
from accuracy_booster.errors import unknown
from accuracy_booster.exported.about import About
from accuracy_booster.exported.resizing import resize_part


class Preprocessing:
    """Makes images of any size inputs of a network, as the run's test images were made.

    Args:
        about: what the exported file says of itself.

    Raises:
        ValueError: for an interpolation, a crop mode or numbers that this version does not know.
    """

    def __init__(self, about: About):
        for what, value, known in (
            ("interpolation", about.interpolation, INTERPOLATIONS),
            ("crop_mode", about.crop_mode, CROP_MODES),
        ):
            if value not in known:
                raise unknown(what, value, known, "pip install -U accuracy-booster")
        self.chans, height, width = about.input_size
        self.interpolation = about.interpolation
        self.crop = Crop((height, width), about.crop_pct, about.crop_mode, about.mean)
        mean, std = (np.array(values, np.float32) for values in (about.mean, about.std))
        # the input for each value of a pixel, float32 [256, C]
        scaled = np.arange(256, dtype=np.float32)[:, None] * np.float32(1 / 255)
        self.inputs = (scaled - mean) / std

    def __call__(self, image: np.ndarray) -> np.ndarray:
        """uint8 [*, *, C] -> float32 [C, H, W], normalised.

        Raises:
            TooManyPixels: for a shape that takes too much memory to resize.
        """
        pixels = self.cropped(image)
        made = [self.inputs[pixels[..., c], c] for c in range(self.chans)]
        return np.stack(made)

    def cropped(self, image: np.ndarray) -> np.ndarray:
        """uint8 [*, *, C] -> uint8 [H, W, C], resized and cropped.

        Raises:
            TooManyPixels: as above.
        """
        crop = self.crop
        image = image[crop.middle(*image.shape[:2])]
        height, width = image.shape[:2]
        size = crop.resized(height, width)
        check_pixels(height, width, size)
        down, across = crop.spans(*size)
        image = resize_part(image, size, down.kept, across.kept, self.interpolation)
        if not down.bordered and not across.bordered:
            return image
        whole = np.empty((*crop.size, self.chans), np.uint8)
        whole[:] = crop.borders
        inside = [
            slice(span.before, side - span.after)
            for span, side in zip((down, across), crop.size, strict=True)
        ]
        whole[tuple(inside)] = image
        return whole

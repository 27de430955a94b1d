"""timm's AutoAugment, RandAugment and AugMix on a tensor, as its text names them.

`loaders` appends it to the transform of a training image.
"""

# C channels, H W space

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from PIL import Image, ImageOps

from accuracy_booster.data.choices import AUTO_AUGMENTS
from accuracy_booster.errors import shown


class AutoAugment:
    """uint8 [C, H, W] -> uint8 [C, H, W], for grey and for colour images.

    timm draws from the generators of Python and NumPy. Here they are seeded from torch's for each
    image, and put back. So an image is a function of torch's generator alone, as all augmentation.

    Args:
        text: as timm's `--aa`: "rand-m9-mstd0.5-inc1", "augmix-m5-w4-d2", "original-mstd0.5", ...
        size: (H, W) of the images. timm moves an image by up to 0.45 of the smaller one.
        mean: per channel, of pixels in [0, 1]: the colour of what is moved in.
        interpolation: of rotated and sheared images.

    Raises:
        ValueError: for a text that timm does not read.
    """

    def __init__(
        self, text: str, size: tuple[int, int], mean: tuple[float, ...], interpolation: str
    ):
        fill = [min(255, round(255 * value)) for value in mean]
        self._settings: dict[str, Any] = {
            "translate_const": int(min(size) * 0.45),
            "img_mean": fill[0] if len(fill) == 1 else tuple(fill),
            "interpolation": getattr(Image.Resampling, interpolation.upper()),
        }
        self._text = text
        self._augment = self._made()

    def _made(self) -> Callable[[Image.Image], Image.Image]:
        from timm.data import auto_augment as timms

        settings = dict(self._settings)
        kind = self._text.partition("-")[0]
        make: Any = {
            "rand": timms.rand_augment_transform,
            "augmix": timms.augment_and_mix_transform,
        }.get(kind, timms.auto_augment_transform)
        if kind == "augmix":
            settings["translate_pct"] = 0.3
        try:
            made = make(self._text, settings)
        except (AssertionError, ValueError, KeyError, TypeError) as e:
            raise ValueError(
                f"auto_augment={shown(self._text)} is no text that timm reads; it is one of "
                f"{', '.join(AUTO_AUGMENTS)}, with timm's settings after dashes, such as "
                "rand-m9-mstd0.5-inc1"
            ) from e
        rows = made.policy if hasattr(made, "policy") else [made.ops]
        for operation in (one for row in rows for one in row):
            if operation.name.startswith("Posterize"):
                operation.aug_fn = _posterize
        return made

    def __call__(self, image: torch.Tensor) -> torch.Tensor:
        seed = int(torch.randint(2**31, ()))
        python, numpy = random.getstate(), np.random.get_state()
        random.seed(seed)
        np.random.seed(seed)
        try:
            pixels = image.permute(1, 2, 0).contiguous().numpy()
            picture = Image.fromarray(pixels[..., 0] if pixels.shape[2] == 1 else pixels)
            changed = np.array(self._augment(picture))
        finally:
            random.setstate(python)
            np.random.set_state(numpy)
        return torch.from_numpy(changed.reshape(pixels.shape)).permute(2, 0, 1)

    def __getstate__(self) -> dict[str, Any]:
        return {"_text": self._text, "_settings": self._settings}  # timm's need not be picklable

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._augment = self._made()


def _posterize(image: Image.Image, bits: int, **_: object) -> Image.Image:
    """Keep the highest bits of each value. timm asks for 0 bits too, which Pillow 13 refuses."""
    return ImageOps.posterize(image, min(bits, 8)) if bits else image.point(lambda value: 0)

"""How an image becomes the input that a pretrained network was trained on, as its library says.

`data`, training and evaluation use it for what the user does not set.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from torch import nn

from accuracy_booster.errors import shown, unknown
from accuracy_booster.models.registry import MODELS

# those of `data`, which is built on this part of the package
INTERPOLATIONS = ("bilinear", "bicubic", "nearest")
CROP_MODES = ("center", "squash", "border")
NEAR_BICUBIC = ("lanczos", "hamming", "box", "random")  # timm has them; torchvision does not
MOST_CROP_PCT = 2.0  # timm's largest is 1.15


@dataclass(frozen=True)
class Preprocessing:
    """How an image becomes the input of a network.

    Attributes:
        image_size: (H, W) of the input.
        mean, std: per channel, of pixels in [0, 1].
        interpolation: how images are resized.
        crop_pct: the share of the resized image's edge that the centre crop keeps for measuring.
        crop_mode: timm's mode of the centre crop.
    """

    image_size: tuple[int, int]
    mean: tuple[float, ...]
    std: tuple[float, ...]
    interpolation: str = "bilinear"
    crop_pct: float = 0.875
    crop_mode: str = "center"

    def __str__(self) -> str:
        mode = "" if self.crop_mode == "center" else f" ({self.crop_mode})"
        return (
            f"{size_and_normalisation(self.image_size, self.mean, self.std)}, "
            f"{self.interpolation}, crop_pct {self.crop_pct:.4g}{mode}"
        )


def size_and_normalisation(
    size: tuple[int, int], mean: tuple[float, ...], std: tuple[float, ...]
) -> str:
    """The size (H, W) of a network's input, and its normalisation, as text."""
    return f"{size[0]} x {size[1]} pixels, mean {_numbers(mean)}, std {_numbers(std)}"


def _numbers(values: tuple[float, ...]) -> str:
    return ",".join(f"{value:.4g}" for value in values)


def pretrained_preprocessing(
    name: str, size: tuple[int, int] | None = None
) -> Preprocessing | None:
    """What the weights of `create_model(name, pretrained=True)` were trained on; None if unknown.

    Args:
        size: (H, W) of the images in place of the weights' own. timm knows a second `crop_pct` for
            the size at which it tests a network.
    """
    library, _, rest = name.partition("/")
    if library == "torchvision":
        known = _of_torchvision(rest)
        return known if known is None or size is None else replace(known, image_size=size)
    if library == "timm":
        return _from(_config(rest), size)
    row = MODELS.get(name)
    if row is None or not row.pretrained:
        return None
    tag = row.build.args[0]  # type: ignore[attr-defined]
    return _from(_config(tag), size or row.input_size[1:])


def preprocessing_of(model: nn.Module, size: tuple[int, int] | None = None) -> Preprocessing | None:
    """What a network of timm says of its own input; None for another module.

    Raises:
        ValueError: if it says what no image can be made by.
    """
    config = getattr(model, "pretrained_cfg", None)
    if not isinstance(config, dict):
        return None
    own = (getattr(model, "default_cfg", None) or {}).get("input_size")  # ours may differ
    whose = f"pretrained_cfg of this {type(model).__name__}"
    try:
        made = _from(config, size or (own[1:] if own else None))
        return None if made is None else _checked(made)
    except TypeError as e:
        raise ValueError(f"{whose}: {e}; input_size, mean and std are tuples of numbers") from e
    except ValueError as e:
        raise ValueError(f"{whose}: {e}") from e


def classes_of(model: nn.Module) -> tuple[str, ...] | None:
    """The names of a network's outputs in `model.classes`, which `ab.load_run` sets; or None."""
    names = getattr(model, "classes", None)
    texts = isinstance(names, (tuple, list)) and all(isinstance(name, str) for name in names)
    return tuple(names) if texts and names else None  # type: ignore[arg-type]


def _config(name: str) -> dict[str, Any]:
    from timm.models import get_pretrained_cfg

    found = get_pretrained_cfg(name)
    return {} if found is None else found.to_dict()


def _from(config: dict[str, Any], size: Sequence[int] | None) -> Preprocessing | None:
    own, mean, std = (config.get(key) for key in ("input_size", "mean", "std"))
    if not own or not mean or not std:
        return None
    height, width = size or own[-2:]
    tested = config.get("test_input_size")
    at_test = tested is not None and tuple(tested[-2:]) == (height, width)
    kind = config.get("interpolation") or "bicubic"
    if kind in NEAR_BICUBIC:
        kind = "bicubic"
    return Preprocessing(
        (int(height), int(width)),
        tuple(map(float, mean)),
        tuple(map(float, std)),
        kind,
        float((at_test and config.get("test_crop_pct")) or config.get("crop_pct") or 0.875),
        config.get("crop_mode") or "center",
    )


def _checked(made: Preprocessing) -> Preprocessing:
    """The same, if images can be made so."""
    if made.interpolation not in INTERPOLATIONS:
        known = (*INTERPOLATIONS, *NEAR_BICUBIC)
        raise unknown("interpolation", made.interpolation, known)
    if made.crop_mode not in CROP_MODES:
        raise unknown("crop_mode", made.crop_mode, CROP_MODES)
    if not 0 < made.crop_pct <= MOST_CROP_PCT:
        raise ValueError(
            f"crop_pct={made.crop_pct:g} must be above 0 and at most {MOST_CROP_PCT}: it is the "
            "share of the resized image's edge that the centre crop keeps"
        )
    if min(made.image_size) < 1:
        raise ValueError(f"input_size={shown(made.image_size)} must have sides of 1 pixel or more")
    if len(made.mean) != len(made.std):
        raise ValueError(
            f"mean={shown(made.mean)} and std={shown(made.std)} must have one value per channel"
        )
    if not all(map(math.isfinite, made.mean + made.std)) or min(made.std) <= 0:
        raise ValueError(
            f"mean={shown(made.mean)} and std={shown(made.std)} must be finite, and std above 0"
        )
    return made


def _of_torchvision(name: str) -> Preprocessing | None:
    import torchvision

    weights = torchvision.models.get_model_weights(name)
    made = getattr(weights, "DEFAULT", None)
    transforms: Any = made.transforms() if made is not None else None
    if not hasattr(transforms, "crop_size"):
        return None
    (side,), (cover,) = transforms.crop_size, transforms.resize_size
    return Preprocessing(
        *((side, side), tuple(transforms.mean), tuple(transforms.std)),
        *(transforms.interpolation.value, side / cover),
    )

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
MOST_CROP_PCT = 2.0
NEAR_BICUBIC = ("lanczos", "hamming", "box", "random")  # timm has them; torchvision does not


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
    if not all(config.get(key) for key in ("input_size", "mean", "std")):
        return None
    own, mean, std = (_tuple(config, key) for key in ("input_size", "mean", "std"))
    if len(own) != 3 or any(n < 1 or n % 1 for n in own):
        raise ValueError(
            f"input_size={shown(config['input_size'])} must be three whole numbers >= 1: channels, "
            "height and width"
        )
    if len(mean) != own[0] and (own[0], len(mean)) != (1, 3):  # timm keeps three for grey images
        raise ValueError(
            f"mean={shown(config['mean'])} must have {int(own[0])} values, one per channel of "
            "input_size"
        )
    height, width = size or own[1:]
    tested = config.get("test_input_size")
    at_test = tested is not None and tuple(tested[-2:]) == (height, width)
    crop_pct = config.get("test_crop_pct") if at_test else None
    crop_pct = config.get("crop_pct") if crop_pct is None else crop_pct
    kind = config.get("interpolation") or "bicubic"
    return Preprocessing(
        (int(height), int(width)),
        mean,
        std,
        "bicubic" if kind in NEAR_BICUBIC else kind,
        0.875 if crop_pct is None else crop_pct,
        config.get("crop_mode") or "center",
    )


def _tuple(config: dict[str, Any], key: str) -> tuple[float, ...]:
    """The numbers that a configuration has under a key."""
    try:
        return tuple(map(float, config[key]))
    except (TypeError, ValueError):
        raise ValueError(f"{key}={shown(config[key])} must be numbers in a tuple") from None


def _checked(made: Preprocessing) -> Preprocessing:
    """The same, if images can be made so."""
    if made.interpolation not in INTERPOLATIONS:
        known = (*INTERPOLATIONS, *NEAR_BICUBIC)
        raise unknown("interpolation", made.interpolation, known)
    if made.crop_mode not in CROP_MODES:
        raise unknown("crop_mode", made.crop_mode, CROP_MODES)
    if not isinstance(made.crop_pct, (int, float)) or not 0 < made.crop_pct <= MOST_CROP_PCT:
        raise ValueError(
            f"crop_pct={shown(made.crop_pct)} must be a number above 0 and at most "
            f"{MOST_CROP_PCT:g}: the share of the resized image's edge that the crop keeps"
        )
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

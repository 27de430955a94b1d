"""How an image becomes the input that a pretrained network was trained on, as its library says.

`data`, training and evaluation use it for what the user does not set.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from torch import nn

from accuracy_booster.models.registry import MODELS


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
    """What a network of timm says of its own input; None for another module."""
    config = getattr(model, "pretrained_cfg", None)
    if not isinstance(config, dict):
        return None
    own = (getattr(model, "default_cfg", None) or {}).get("input_size")  # ours may differ
    return _from(config, size or (own[1:] if own else None))


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
    return Preprocessing(
        (int(height), int(width)),
        tuple(map(float, mean)),
        tuple(map(float, std)),
        # torchvision resizes tensors in these ways; Lanczos comes close to bicubic
        kind if kind in ("bilinear", "bicubic", "nearest") else "bicubic",
        float((at_test and config.get("test_crop_pct")) or config.get("crop_pct") or 0.875),
        config.get("crop_mode") or "center",
    )


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

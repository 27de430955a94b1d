"""One table of networks and one function that makes them, plain or boosted."""

from __future__ import annotations

import fnmatch
import re
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import nn

from accuracy_booster import blocks
from accuracy_booster.blocks import Recipe
from accuracy_booster.errors import SHOWN, shortened, shown, unknown
from accuracy_booster.models.libraries import LIBRARIES
from accuracy_booster.models.preact_cifar import PreActResNet, WideResNet
from accuracy_booster.models.resnet_cifar import ResNetCifar
from accuracy_booster.models.resnet_imagenet import stride_in_first_conv, wide_resnet18
from accuracy_booster.models.shufflenet import ShuffleNet
from accuracy_booster.surgery import boost
from accuracy_booster.surgery.where import Where

CIFAR_DEPTHS = (8, 14, 20, 32, 44, 56, 110)


@dataclass(frozen=True)
class Entry:
    """A network: how to build it, what it is, its usual input [C, H, W] and number of classes.

    `build` takes num_classes and in_chans; where there are weights (`pretrained`), that too.
    """

    build: Callable[..., nn.Module]
    about: str
    input_size: tuple[int, int, int] = (3, 32, 32)
    num_classes: int = 10
    pretrained: bool = False


def _imagenet(build: Callable[..., nn.Module], about: str, pretrained: bool = False) -> Entry:
    return Entry(build, about, (3, 224, 224), 1000, pretrained)


def _timm(name: str, **given: Any) -> nn.Module:
    """A ResNet of timm that starts as torchvision's do: no norm has weight zero."""
    return LIBRARIES["timm"].builder(name)(zero_init_last=False, **given)


def _v1(name: str, **given: Any) -> nn.Module:
    return stride_in_first_conv(_timm(name, pretrained=False, **given))


MODELS: dict[str, Entry] = {
    **{
        f"resnet{depth}": Entry(
            partial(ResNetCifar, depth), f"ResNet-{depth} for CIFAR, option A shortcuts"
        )
        for depth in CIFAR_DEPTHS
    },
    "resnet164": Entry(partial(PreActResNet, 164), "pre-activation bottleneck ResNet-164"),
    "resnet164v1": Entry(
        partial(PreActResNet, 164, variant="v1"),
        "the same, stride in the first 1x1, biased third conv (the paper's Table 15)",
    ),
    **{
        f"wrn{depth}_{width}": Entry(
            partial(WideResNet, depth, width), f"wide ResNet-{depth}, {width} times as wide"
        )
        for depth, width in ((16, 4), (22, 10), (28, 10))
    },
    **{
        f"resnet{depth}": _imagenet(
            partial(_timm, f"resnet{depth}.{tag}"),
            f"ResNet-{depth} for ImageNet, as torchvision's",
            pretrained=True,
        )
        for depth, tag in (
            *((18, "tv_in1k"), (34, "tv_in1k")),  # torchvision's default weights
            *((50, "tv2_in1k"), (101, "tv2_in1k"), (152, "tv2_in1k")),
        )
    },
    **{
        f"resnet{depth}v1": _imagenet(
            partial(_v1, f"resnet{depth}"),
            "the same, stride in the first 1x1 of a bottleneck (the paper's Table 2)",
        )
        for depth in (50, 101, 152)
    },
    "wrn18_2": _imagenet(wide_resnet18, "ResNet-18 with twice the channels (the paper's Table 4)"),
    "resnext101_32x4d": _imagenet(
        partial(_timm, "resnext101_32x4d.gluon_in1k"),
        "ResNeXt-101, 32 groups of 4 (the paper's Table 8)",
        pretrained=True,
    ),
    "shufflenet_g3": _imagenet(
        partial(ShuffleNet, 3), "ShuffleNet v1, 1x, 3 groups (the paper's Table 7)"
    ),
}
_WIDE = re.compile(r"wrn(\d{1,9})_(\d{1,9})", re.ASCII)


def entry(name: str) -> Entry:
    """The row of a network's name; `wrnD_K` works for any depth D = 6n + 4 and width K.

    Raises:
        ValueError: for an unknown name, with the nearest ones.
    """
    if name in MODELS:
        return MODELS[name]
    if match := _WIDE.fullmatch(name):
        depth, width = map(int, match.groups())
        return Entry(partial(WideResNet, depth, width), f"wide ResNet-{depth}, {width} times")
    remedy = "or wrnD_K (depth D = 6n + 4, width K), timm/NAME, torchvision/NAME"
    raise unknown("model", name, MODELS, remedy)


def list_models(filter: str = "*") -> list[str]:
    """The names of our networks that match a shell-style pattern, as timm's `list_models`.

    A pattern that starts with "timm/" or "torchvision/" lists theirs.
    """
    library, _, pattern = filter.rpartition("/")
    if library in LIBRARIES:
        return [f"{library}/{name}" for name in fnmatch.filter(LIBRARIES[library].names(), pattern)]
    return fnmatch.filter(MODELS, filter)


def is_model(name: str) -> bool:
    """Whether `create_model` knows a name."""
    library, _, rest = name.partition("/")
    if library in LIBRARIES and rest:
        return LIBRARIES[library].has(rest)
    return name in MODELS or _WIDE.fullmatch(name) is not None


def create_model(
    name: str,
    *,
    recipe: str | Recipe | None = None,
    init: str = "paper",
    where: Where = "residual",
    pretrained: bool = False,
    num_classes: int | None = None,
    in_chans: int = 3,
    input_size: tuple[int, int, int] | None = None,
    **options: Any,
) -> nn.Module:
    """Make a network and, if asked, boost it: `ab.boost(create_model(name), recipe)`.

    Args:
        name: one of `list_models()`, `wrnD_K`, `timm/NAME` or `torchvision/NAME`.
        recipe: what the gates compute (`ab.recipe`); None or "none" for the plain network.
        init, where: as for `ab.boost`.
        pretrained: with the weights of timm or torchvision, downloaded once.
        num_classes: outputs of the head; by default the network's own (ours: 10 for CIFAR's, 1000
            for ImageNet's).
        in_chans: channels of the images.
        input_size: (C, H, W) of the images, by default the network's usual. Recipes with a weight
            for each position (designs G and H, Gather-Excite's learned global gather) need it.
        options: further arguments of timm's or torchvision's own function, such as timm's
            `drop_path_rate=0.1` or `pretrained_cfg_overlay={"file": PATH}`.

    Returns:
        The network. Its own parameters have the same names, and for the same random state the same
        values, with and without gates; those of the gates are under `<site>.recalibrate`.

    Raises:
        ValueError: for an unknown name or recipe, one that does not fit the network, or weights
            that cannot be had.
    """
    build = builder(name)
    parsed = None if recipe is None or recipe == "none" else blocks.recipe(recipe)
    if parsed is not None and input_size is None and parsed.needs_spatial_size:
        raise ValueError(
            f"recipe {shown(str(parsed))} has a weight for each position of the map, so it needs "
            "the images' size: pass input_size=(C, H, W)"
        )
    if in_chans < 1 or (num_classes is not None and num_classes < 0):
        raise ValueError(
            f"in_chans={shown(in_chans)} must be >= 1 and num_classes={shown(num_classes)} >= 0 "
            "(0: no head)"
        )
    if input_size is not None and (
        len(input_size) != 3 or input_size[0] != in_chans or min(input_size) < 1
    ):
        raise ValueError(
            f"input_size={shown(input_size)} must be (C, H, W), each >= 1, with C = in_chans = "
            f"{shown(in_chans)}"
        )
    try:
        model = build(pretrained=pretrained, num_classes=num_classes, in_chans=in_chans, **options)
    except TypeError as e:
        if "unexpected keyword argument" not in str(e):
            raise
        raise ValueError(f"{shortened(name, SHOWN)}: {str(e).rpartition('() ')[2]}") from None
    if parsed is None:
        return model
    example = torch.zeros(1, *input_size) if input_size else None
    return boost(model, parsed, example=example, where=where, init=init)


def builder(name: str) -> Callable[..., nn.Module]:
    """What builds the network of a name: called with pretrained, num_classes and in_chans.

    Raises:
        ValueError: for an unknown name, with the nearest ones.
    """
    library, _, rest = name.partition("/")
    if library in LIBRARIES and rest:
        return LIBRARIES[library].builder(rest)
    return partial(_ours, name, entry(name))


def _ours(
    name: str,
    row: Entry,
    *,
    pretrained: bool,
    num_classes: int | None,
    in_chans: int,
    **options: Any,
) -> nn.Module:
    if pretrained and not row.pretrained:
        has = ", ".join(n for n, e in MODELS.items() if e.pretrained)
        raise ValueError(
            f"there are no pretrained weights for {shown(name)}; there are for {has}, and for many "
            "of timm/NAME and torchvision/NAME"
        )
    if row.pretrained:
        options["pretrained"] = pretrained
    classes = row.num_classes if num_classes is None else num_classes
    model = row.build(num_classes=classes, in_chans=in_chans, **options)
    known = getattr(model, "default_cfg", None) or {}
    size = (in_chans, *row.input_size[1:])
    model.default_cfg = {**known, "input_size": size}  # type: ignore[assignment]
    return model

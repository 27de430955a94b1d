"""The table of our networks by name, and the lookup of names of ours, timm's and torchvision's."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

from torch import nn

from accuracy_booster.errors import shown, unknown
from accuracy_booster.models.importing import is_import_path
from accuracy_booster.models.libraries import LIBRARIES
from accuracy_booster.models.preact_cifar import PreActResNet, WideResNet
from accuracy_booster.models.resnet_cifar import ResNetCifar
from accuracy_booster.models.resnet_imagenet import stride_in_first_conv, wide_resnet18
from accuracy_booster.models.shufflenet import ShuffleNet
from accuracy_booster.progress import printable

CIFAR_DEPTHS = (8, 14, 20, 32, 44, 56, 110)


@dataclass(frozen=True)
class Entry:
    """A row of the table.

    Attributes:
        build: makes the network, from num_classes and in_chans; and from pretrained, if there are
            weights.
        about: what the network is.
        input_size: (C, H, W) of the images that it is usually given.
        num_classes: how many classes it usually has.
        pretrained: whether there are weights for it.
    """

    build: Callable[..., nn.Module]
    about: str
    input_size: tuple[int, int, int] = (3, 32, 32)
    num_classes: int = 10
    pretrained: bool = False


def _imagenet(build: Callable[..., nn.Module], about: str, pretrained: bool = False) -> Entry:
    return Entry(build, about, (3, 224, 224), 1000, pretrained)


def _timm(name: str, **given: Any) -> nn.Module:
    """A ResNet of timm, initialised as torchvision's: no norm starts with the weight zero."""
    return LIBRARIES["timm"].builder(name)(zero_init_last=False, **given)


def _v1(name: str, **given: Any) -> nn.Module:
    """A ResNet with the stride where He et al. 2015 put it, of which there are no weights."""
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
    """The row of a network of ours; `wrnD_K` may have any depth D = 6n + 4 and width K.

    Raises:
        ValueError: if the name is unknown, with the nearest ones.
    """
    if name in MODELS:
        return MODELS[name]
    if match := _WIDE.fullmatch(name):
        depth, width = map(int, match.groups())
        return Entry(partial(WideResNet, depth, width), f"wide ResNet-{depth}, {width} times")
    if is_import_path(name):
        raise ValueError(
            f"{shown(name)} is a network of your own, which only the commands train, compare, "
            "eval, predict, inspect, merge and prune take; name one that 'accuracy-booster models' "
            "lists, or give the module itself in Python, as ab.plan(module)"
        )
    if name.endswith(".py"):
        raise ValueError(
            f"{shown(name)} is a file; write {printable(name)}:FUNCTION, the function "
            "or class in it that makes the network"
        )
    remedy = "or wrnD_K (depth D = 6n + 4, width K), timm/NAME, torchvision/NAME"
    raise unknown("model", name, MODELS, remedy)


def is_model(name: str) -> bool:
    """Whether `create_model` knows a name."""
    library, _, rest = name.partition("/")
    if library in LIBRARIES and rest:
        return LIBRARIES[library].has(rest)
    return name in MODELS or _WIDE.fullmatch(name) is not None


def builder(name: str) -> Callable[..., nn.Module]:
    """The function that builds the network of a name, from pretrained, num_classes and in_chans.

    Raises:
        ValueError: if the name is unknown, with the nearest ones.
    """
    library, _, rest = name.partition("/")
    if library in LIBRARIES and rest:
        if not LIBRARIES[library].has(rest):
            names = [f"{library}/{n}" for n in LIBRARIES[library].names()]
            raise unknown("model", name, names, _of_scripts(rest))
        return LIBRARIES[library].builder(rest)
    return partial(_ours, name, entry(name))


def _of_scripts(name: str) -> str:
    """What to give instead of a boosted name, which scripts of timm and torchvision take."""
    if not name.startswith("ab_"):
        return ""
    return "names with ab_ are for timm's and torchvision's own scripts; here give the block apart"


def name_in_timm(name: str) -> str | None:
    """The name under which timm has this very network; None if it does not have it.

    Six of ours are timm's, with another initialisation.

    Raises:
        ValueError: if the name is unknown.
    """
    library, _, rest = name.partition("/")
    if library in LIBRARIES and rest:
        return rest if library == "timm" else None
    build = entry(name).build
    theirs = isinstance(build, partial) and build.func is _timm
    return str(build.args[0]) if theirs else None  # type: ignore[attr-defined]


def check_pretrained(name: str) -> None:
    """Raise ValueError if there are no pretrained weights for a network of ours.

    A library tells it itself when it is asked for weights that it does not have.
    """
    if name.partition("/")[0] in LIBRARIES or entry(name).pretrained:
        return
    has = ", ".join(n for n, e in MODELS.items() if e.pretrained)
    raise ValueError(
        f"there are no pretrained weights for {shown(name)}; there are for {has}, and for many "
        "of timm/NAME and torchvision/NAME"
    )


def _ours(
    name: str,
    row: Entry,
    *,
    pretrained: bool,
    num_classes: int | None,
    in_chans: int,
    **options: Any,
) -> nn.Module:
    """A network of ours. Its `default_cfg` says its input size, as timm's does."""
    if pretrained:
        check_pretrained(name)
    if row.pretrained:
        options["pretrained"] = pretrained
    classes = row.num_classes if num_classes is None else num_classes
    model = row.build(num_classes=classes, in_chans=in_chans, **options)
    known = getattr(model, "default_cfg", None) or {}
    size = (in_chans, *row.input_size[1:])
    model.default_cfg = {**known, "input_size": size}  # type: ignore[assignment]
    return model

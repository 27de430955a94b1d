"""The named parts of a recipe: what each is, what it takes and gives, and the layer it builds.

A new part is one frozen dataclass here; the grammar finds it by its `name`.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, fields
from typing import ClassVar, Literal

from torch import nn

from accuracy_booster.blocks import layers
from accuracy_booster.blocks.versions import FORMER_DEFAULTS
from accuracy_booster.errors import SHOWN, shortened, shown

# What flows between parts.
# vector: [N, C]; map: [N, C, h, w]; planes: [N, 2, H, W]; plane: [N, 1, H, W]; or other
# numbers of dimensions of space
Kind = Literal["map", "vector", "planes", "plane"]
Value = int | float | bool | str
# what layers may come to: a kernel of 255 x 255, Gather-Excite's gather over 4096 positions
MAX_KERNEL, MAX_EXTENT = 255, 4096
ODD = f"an odd number up to {MAX_KERNEL}"

MEANING: dict[Kind, str] = {
    "map": "a feature map",
    "vector": "one value per channel",
    "planes": "two values per position",
    "plane": "one value per position",
}


@dataclass(frozen=True)
class Context:
    """Where a part is built: the kind it gets, the channels, the map's size, what follows."""

    kind: Kind
    channels: int
    spatial_size: tuple[int, ...] | None
    bias_is_dead: bool  # a later batch norm removes every bias added here
    spatial_dims: int = 2  # 0 for [N, C], where a map and a vector are the same


@dataclass(frozen=True)
class Part:
    """A step of a recipe. Fields are its arguments, checked on construction."""

    name: ClassVar[str]
    positional: ClassVar[tuple[str, ...]] = ()  # printed without their keyword
    takes: ClassVar[tuple[Kind, ...]] = ("map", "vector")
    # a bias added before this part shifts each channel's output by a constant
    keeps_shifts: ClassVar[bool] = False

    def gives(self, kind: Kind) -> Kind:
        return kind

    @property
    def needs_spatial_size(self) -> bool:
        return False

    @property
    def has_parameters(self) -> bool:
        return any(f.name == "init" for f in fields(self))

    def build(self, at: Context) -> nn.Module:
        raise NotImplementedError

    def __str__(self) -> str:
        shown = []
        for f in fields(self):
            value = getattr(self, f.name)
            if f.name in self.positional:
                shown.append(_text(value))
            elif value != f.default:
                shown.append(f"{f.name}={_text(value)}")
        return f"{self.name}({', '.join(shown)})" if shown else self.name


def _text(value: Value | None) -> str:
    return str(value).lower() if isinstance(value, bool) else f"{value}"


def _told(value: object) -> str:
    """A value that was not checked yet, in an error: short, whatever it is."""
    return shortened(value, SHOWN) if isinstance(value, str) else shown(value)


def _check(part: Part, argument: str, ok: bool, rule: str) -> None:
    if not ok:
        value = getattr(part, argument)
        value = _text(value) if isinstance(value, bool) else _told(value)
        raise ValueError(f"{part.name}: {argument}={value} must be {rule}")


def _is_int(value: object, least: int = 1) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= least


def _is_odd(value: object) -> bool:
    return _is_int(value) and value % 2 == 1 and value <= MAX_KERNEL  # type: ignore[operator]


def _is_number(value: object) -> bool:
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return False
    try:
        return math.isfinite(value)
    except OverflowError:  # a whole number that no float holds
        return False


def _check_weighted(part: Part) -> None:
    _check(part, "init", part.init in layers.INITS, f"one of {', '.join(layers.INITS)}")  # type: ignore[attr-defined]
    bias = part.bias  # type: ignore[attr-defined]
    _check(part, "bias", bias is None or isinstance(bias, bool), "true or false")


def _bias(bias: bool | None, at: Context) -> bool:
    return not at.bias_is_dead if bias is None else bias


def _require_size(part: Part, at: Context) -> tuple[int, ...]:
    _require_space(part, at)
    if at.spatial_size is None:
        names = {1: "(L,)", 2: "(H, W)", 3: "(D, H, W)"}[at.spatial_dims]
        raise ValueError(
            f"{part} has a weight for each position of the map, so it needs the map's size: pass "
            f"spatial_size={names} to Recalibrate, or input_size=(C, H, W) to create_model"
        )
    return at.spatial_size


def _require_space(part: Part, at: Context) -> None:
    if at.spatial_dims == 0:
        raise ValueError(
            f"{part} needs positions, and [N, {at.channels}] has none; use a block that reads the "
            "mean alone, such as ab, ab_plus, se or eca"
        )


@dataclass(frozen=True)
class Gap(Part):
    name: ClassVar[str] = "gap"
    takes: ClassVar[tuple[Kind, ...]] = ("map",)
    keeps_shifts: ClassVar[bool] = True

    def gives(self, kind: Kind) -> Kind:
        return "vector"

    def build(self, at: Context) -> nn.Module:
        return layers.GlobalAveragePool()


@dataclass(frozen=True)
class Gmp(Gap):
    name: ClassVar[str] = "gmp"

    def build(self, at: Context) -> nn.Module:
        return layers.GlobalMaxPool()


@dataclass(frozen=True)
class Gather(Part):
    """Gather-Excite's gather: over `extent` positions (a power of two) or the whole map."""

    extent: int | str = "global"
    learned: bool = False
    init: str = "default"
    name: ClassVar[str] = "gather"
    positional: ClassVar[tuple[str, ...]] = ("extent",)
    takes: ClassVar[tuple[Kind, ...]] = ("map",)

    def __post_init__(self):
        power = _is_int(self.extent, 2) and not self.extent & (self.extent - 1)  # type: ignore[operator]
        fits = self.extent == "global" or (power and self.extent <= MAX_EXTENT)  # type: ignore[operator]
        _check(self, "extent", fits, f"a power of two up to {MAX_EXTENT}, or global")
        _check(self, "learned", isinstance(self.learned, bool), "true or false")
        _check(self, "init", self.init in layers.INITS, f"one of {', '.join(layers.INITS)}")

    def gives(self, kind: Kind) -> Kind:
        return "vector" if self.extent == "global" else "map"

    @property
    def needs_spatial_size(self) -> bool:
        return self.learned and self.extent == "global"

    @property
    def has_parameters(self) -> bool:
        return self.learned

    def build(self, at: Context) -> nn.Module:
        c = at.channels
        if self.extent == "global":
            if not self.learned:
                return layers.GlobalAveragePool()
            size = _require_size(self, at)
            conv_of_all = layers.GLOBAL_CONVS[at.spatial_dims]
            return conv_of_all(c, size, groups=c, bias=True, init=self.init)
        _require_space(self, at)
        extent = int(self.extent)
        if not self.learned:
            return layers.AverageGather(extent)
        steps: list[nn.Module] = []
        count = int(math.log2(extent))
        zeros = self.init == "zeros"  # then one factor, the last norm's, starts at zero
        for step in range(1, count + 1):
            if step > 1:
                steps.append(nn.ReLU())
            init = "default" if zeros else self.init
            same_size = layers.CONVS[at.spatial_dims]
            conv = same_size(c, c, 3, groups=c, stride=2, bias=False, init=init)
            gamma = "zeros" if zeros and step == count else "ones"
            steps += [conv, layers.GateNorm(c, eps=1e-5, momentum=0.1, init=gamma)]
        return nn.Sequential(*steps)


@dataclass(frozen=True)
class ConvPart(Part):
    """A convolution of the map with itself: `kernel` wide and same-sized, or over the whole map."""

    kernel: int | str = 3
    bias: bool | None = None
    init: str = "default"
    name: ClassVar[str] = "conv"
    positional: ClassVar[tuple[str, ...]] = ("kernel",)
    takes: ClassVar[tuple[Kind, ...]] = ("map",)
    depthwise: ClassVar[bool] = False

    def __post_init__(self):
        odd = _is_odd(self.kernel)
        _check(self, "kernel", self.kernel == "global" or odd, f"{ODD}, or global")
        _check_weighted(self)

    def gives(self, kind: Kind) -> Kind:
        return "vector" if self.kernel == "global" else "map"

    @property
    def needs_spatial_size(self) -> bool:
        return self.kernel == "global"

    def build(self, at: Context) -> nn.Module:
        c = at.channels
        groups, bias = (c if self.depthwise else 1), _bias(self.bias, at)
        if self.kernel == "global":
            size = _require_size(self, at)
            conv_of_all = layers.GLOBAL_CONVS[at.spatial_dims]
            return conv_of_all(c, size, groups=groups, bias=bias, init=self.init)
        _require_space(self, at)
        conv = layers.CONVS[at.spatial_dims]
        return conv(c, c, int(self.kernel), groups=groups, bias=bias, init=self.init)


@dataclass(frozen=True)
class DwConvPart(ConvPart):
    """The same with one kernel per channel."""

    name: ClassVar[str] = "dwconv"
    depthwise: ClassVar[bool] = True


@dataclass(frozen=True)
class DensePart(Part):
    """A 1x1 convolution; groups=C (one weight per channel) is AB, groups=1 is AB-Plus."""

    groups: int | str = 1
    bias: bool | None = None
    init: str = "default"
    name: ClassVar[str] = "dense"
    keeps_shifts: ClassVar[bool] = True

    def __post_init__(self):
        _check(self, "groups", self.groups == "C" or _is_int(self.groups), "a number >= 1, or C")
        _check_weighted(self)

    def build(self, at: Context) -> nn.Module:
        c = at.channels
        groups = c if self.groups == "C" else int(self.groups)
        if c % groups:
            divisors = [d for d in range(1, c + 1) if c % d == 0]
            below = max(d for d in divisors if d <= groups)
            above = [d for d in divisors if d > groups][:1]
            near = " or ".join(str(d) for d in [below, *above])
            raise ValueError(f"groups={_told(groups)} must divide channels={c}; try {near}")
        return layers.Dense(c, c, groups=groups, bias=_bias(self.bias, at), init=self.init)


@dataclass(frozen=True)
class BottleneckPart(Part):
    """Two dense layers, C -> max(1, C // reduction) -> C, with a ReLU between (SE)."""

    reduction: int = 16
    bias: bool = True
    init: str = "default"
    name: ClassVar[str] = "bottleneck"
    positional: ClassVar[tuple[str, ...]] = ("reduction",)

    def __post_init__(self):
        _check(self, "reduction", _is_int(self.reduction), "a number >= 1")
        _check(self, "bias", isinstance(self.bias, bool), "true or false")
        _check_weighted(self)

    def build(self, at: Context) -> nn.Module:
        return layers.Bottleneck(
            at.channels, reduction=self.reduction, bias=self.bias, init=self.init
        )


@dataclass(frozen=True)
class Conv1dPart(Part):
    """A 1-D convolution along the channels; `adaptive` is ECA's width: |log2(C)/2 + 1/2|, odd."""

    kernel: int | str = "adaptive"
    bias: bool | None = None
    init: str = "default"
    name: ClassVar[str] = "conv1d"
    positional: ClassVar[tuple[str, ...]] = ("kernel",)
    takes: ClassVar[tuple[Kind, ...]] = ("vector",)
    keeps_shifts: ClassVar[bool] = True

    def __post_init__(self):
        odd = _is_odd(self.kernel)
        _check(self, "kernel", self.kernel == "adaptive" or odd, f"{ODD}, or adaptive")
        _check_weighted(self)

    def build(self, at: Context) -> nn.Module:
        if self.kernel == "adaptive":
            width = int(abs((math.log2(at.channels) + 1) / 2))
            kernel = max(width if width % 2 else width + 1, 3)
        else:
            kernel = int(self.kernel)
        return layers.ChannelConv1d(kernel, bias=_bias(self.bias, at), init=self.init)


@dataclass(frozen=True)
class ChannelPoolPart(Part):
    """The maximum and the mean over the channels at each position, in this order or the other."""

    order: str = "max_mean"
    name: ClassVar[str] = "channel_pool"
    takes: ClassVar[tuple[Kind, ...]] = ("map",)

    def __post_init__(self):
        _check(self, "order", self.order in ("max_mean", "mean_max"), "max_mean or mean_max")

    def gives(self, kind: Kind) -> Kind:
        return "planes"

    def build(self, at: Context) -> nn.Module:
        _require_space(self, at)
        return layers.ChannelPool(self.order)


# A part that was pickled before there was a choice has no order of its own and reads this one.
ChannelPoolPart.order = FORMER_DEFAULTS[1]["channel_pool"]["order"]


@dataclass(frozen=True)
class Conv2dPart(Part):
    """CBAM's spatial layer: the two planes of `channel_pool` to one.

    It has as many dimensions as the map.
    """

    kernel: int = 7
    bias: bool | None = None
    init: str = "default"
    name: ClassVar[str] = "conv2d"
    positional: ClassVar[tuple[str, ...]] = ("kernel",)
    takes: ClassVar[tuple[Kind, ...]] = ("planes",)

    def __post_init__(self):
        _check(self, "kernel", _is_odd(self.kernel), ODD)
        _check_weighted(self)

    def gives(self, kind: Kind) -> Kind:
        return "plane"

    def build(self, at: Context) -> nn.Module:
        conv = layers.CONVS[at.spatial_dims]
        return conv(2, 1, self.kernel, bias=_bias(self.bias, at), init=self.init)


@dataclass(frozen=True)
class Relu(Part):
    """A ReLU between two layers (Gather-Excite's authors have one between gather and excite)."""

    name: ClassVar[str] = "relu"

    def build(self, at: Context) -> nn.Module:
        return nn.ReLU()


@dataclass(frozen=True)
class Bn(Part):
    """Batch norm. `init` is that of its gamma; beta starts at 0."""

    eps: float = 1e-5
    momentum: float = 0.1
    init: str = "ones"
    name: ClassVar[str] = "bn"
    takes: ClassVar[tuple[Kind, ...]] = ("map", "vector", "plane")

    def __post_init__(self):
        _check(self, "eps", _is_number(self.eps) and self.eps > 0, "a number > 0")
        in_range = _is_number(self.momentum) and 0 < self.momentum <= 1
        _check(self, "momentum", in_range, "a number in (0, 1]")
        _check(self, "init", self.init in ("ones", "zeros"), "ones or zeros")

    def build(self, at: Context) -> nn.Module:
        channels = 1 if at.kind == "plane" else at.channels
        return layers.GateNorm(channels, eps=self.eps, momentum=self.momentum, init=self.init)


@dataclass(frozen=True)
class Sigmoid(Part):
    """p = scale * sigmoid(...): the end of every gate. The paper's scale is 1."""

    scale: float = 1
    name: ClassVar[str] = "sigmoid"
    takes: ClassVar[tuple[Kind, ...]] = ("map", "vector", "plane")

    def __post_init__(self):
        _check(self, "scale", _is_number(self.scale) and self.scale > 0, "a number > 0")

    def build(self, at: Context) -> nn.Module:
        return nn.Sigmoid()


_ALL: tuple[type[Part], ...] = (
    *(Gap, Gmp, Gather, ConvPart, DwConvPart, ChannelPoolPart),
    *(DensePart, BottleneckPart, Conv1dPart, Conv2dPart, Relu, Bn, Sigmoid),
)
PARTS: dict[str, type[Part]] = {part.name: part for part in _ALL}

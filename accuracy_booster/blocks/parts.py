"""The parts of a recipe: what arguments each takes, and which layer it builds.

A new part is one frozen dataclass here, named in `PARTS`. The grammar needs nothing else.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from torch import nn

from accuracy_booster.blocks import layers, pools
from accuracy_booster.blocks.norms_and_activations import Bn, Relu, Sigmoid
from accuracy_booster.blocks.part import (
    MAX_EXTENT,
    ODD,
    Context,
    Kind,
    Part,
    check,
    check_divides,
    check_init,
    check_weighted,
    has_bias,
    is_int,
    is_odd,
    require_size,
    require_space,
)
from accuracy_booster.blocks.versions import FORMER_DEFAULTS


@dataclass(frozen=True)
class Gap(Part):
    name: ClassVar[str] = "gap"
    takes: ClassVar[tuple[Kind, ...]] = ("map",)
    keeps_shifts: ClassVar[bool] = True

    def gives(self, kind: Kind) -> Kind:
        return "vector"

    def build(self, at: Context) -> nn.Module:
        return pools.GlobalAveragePool()


@dataclass(frozen=True)
class Gmp(Gap):
    name: ClassVar[str] = "gmp"

    def build(self, at: Context) -> nn.Module:
        return pools.GlobalMaxPool()


@dataclass(frozen=True)
class Gather(Part):
    """Gather-Excite's gather, over `extent` positions (a power of two) or over the whole map."""

    extent: int | str = "global"
    learned: bool = False
    init: str = "default"
    name: ClassVar[str] = "gather"
    positional: ClassVar[tuple[str, ...]] = ("extent",)
    takes: ClassVar[tuple[Kind, ...]] = ("map",)

    def __post_init__(self) -> None:
        power = is_int(self.extent, 2) and not self.extent & (self.extent - 1)  # type: ignore[operator]
        fits = self.extent == "global" or (power and self.extent <= MAX_EXTENT)  # type: ignore[operator]
        check(self, "extent", fits, f"a power of two up to {MAX_EXTENT}, or global")
        check(self, "learned", isinstance(self.learned, bool), "true or false")
        check_init(self)

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
                return pools.GlobalAveragePool()
            size = require_size(self, at)
            conv_of_all = layers.GLOBAL_CONVS[at.spatial_dims]
            return conv_of_all(c, size, groups=c, bias=True, init=self.init)
        require_space(self, at)
        extent = int(self.extent)
        if not self.learned:
            return pools.AverageGather(extent)
        return layers.learned_gather(c, extent, at.spatial_dims, self.init)


@dataclass(frozen=True)
class ConvPart(Part):
    """A convolution of the map: `kernel` wide and of the same size, or as large as the map."""

    kernel: int | str = 3
    bias: bool | None = None
    init: str = "default"
    name: ClassVar[str] = "conv"
    positional: ClassVar[tuple[str, ...]] = ("kernel",)
    takes: ClassVar[tuple[Kind, ...]] = ("map",)
    depthwise: ClassVar[bool] = False

    def __post_init__(self) -> None:
        odd = is_odd(self.kernel)
        check(self, "kernel", self.kernel == "global" or odd, f"{ODD}, or global")
        check_weighted(self)

    def gives(self, kind: Kind) -> Kind:
        return "vector" if self.kernel == "global" else "map"

    @property
    def needs_spatial_size(self) -> bool:
        return self.kernel == "global"

    def build(self, at: Context) -> nn.Module:
        c = at.channels
        groups, bias = (c if self.depthwise else 1), has_bias(self.bias, at)
        if self.kernel == "global":
            size = require_size(self, at)
            conv_of_all = layers.GLOBAL_CONVS[at.spatial_dims]
            return conv_of_all(c, size, groups=groups, bias=bias, init=self.init)
        require_space(self, at)
        conv = layers.CONVS[at.spatial_dims]
        return conv(c, c, int(self.kernel), groups=groups, bias=bias, init=self.init)


@dataclass(frozen=True)
class DwConvPart(ConvPart):
    """A depthwise convolution: one kernel per channel."""

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

    def __post_init__(self) -> None:
        check(self, "groups", self.groups == "C" or is_int(self.groups), "a number >= 1, or C")
        check_weighted(self)

    def build(self, at: Context) -> nn.Module:
        c = at.channels
        groups = c if self.groups == "C" else int(self.groups)
        check_divides(groups, c)
        return layers.Dense(c, c, groups=groups, bias=has_bias(self.bias, at), init=self.init)


@dataclass(frozen=True)
class BottleneckPart(Part):
    """Two dense layers, C -> max(1, C // reduction) -> C, with a ReLU between (SE)."""

    reduction: int = 16
    bias: bool = True
    init: str = "default"
    name: ClassVar[str] = "bottleneck"
    positional: ClassVar[tuple[str, ...]] = ("reduction",)

    def __post_init__(self) -> None:
        check(self, "reduction", is_int(self.reduction), "a number >= 1")
        check(self, "bias", isinstance(self.bias, bool), "true or false")
        check_weighted(self)

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

    def __post_init__(self) -> None:
        odd = is_odd(self.kernel)
        check(self, "kernel", self.kernel == "adaptive" or odd, f"{ODD}, or adaptive")
        check_weighted(self)

    def build(self, at: Context) -> nn.Module:
        adaptive = self.kernel == "adaptive"
        kernel = layers.eca_width(at.channels) if adaptive else int(self.kernel)
        return layers.ChannelConv1d(kernel, bias=has_bias(self.bias, at), init=self.init)


@dataclass(frozen=True)
class ChannelPoolPart(Part):
    """The maximum and the mean over the channels at each position. `order` says which is first."""

    order: str = "max_mean"
    name: ClassVar[str] = "channel_pool"
    takes: ClassVar[tuple[Kind, ...]] = ("map",)

    def __post_init__(self) -> None:
        check(self, "order", self.order in ("max_mean", "mean_max"), "max_mean or mean_max")

    def gives(self, kind: Kind) -> Kind:
        return "planes"

    def build(self, at: Context) -> nn.Module:
        require_space(self, at)
        return pools.ChannelPool(self.order)


# Version 1 pickled this part without an order. Such an object finds this default on the class.
ChannelPoolPart.order = FORMER_DEFAULTS[1]["channel_pool"]["order"]


@dataclass(frozen=True)
class Conv2dPart(Part):
    """CBAM's spatial layer. It makes one plane of the two that `channel_pool` gives."""

    kernel: int = 7
    bias: bool | None = None
    init: str = "default"
    name: ClassVar[str] = "conv2d"
    positional: ClassVar[tuple[str, ...]] = ("kernel",)
    takes: ClassVar[tuple[Kind, ...]] = ("planes",)

    def __post_init__(self) -> None:
        check(self, "kernel", is_odd(self.kernel), ODD)
        check_weighted(self)

    def gives(self, kind: Kind) -> Kind:
        return "plane"

    def build(self, at: Context) -> nn.Module:
        conv = layers.CONVS[at.spatial_dims]
        return conv(2, 1, self.kernel, bias=has_bias(self.bias, at), init=self.init)


_ALL: tuple[type[Part], ...] = (
    *(Gap, Gmp, Gather, ConvPart, DwConvPart, ChannelPoolPart),
    *(DensePart, BottleneckPart, Conv1dPart, Conv2dPart, Relu, Bn, Sigmoid),
)
PARTS: dict[str, type[Part]] = {part.name: part for part in _ALL}

"""The layers with weights that the parts of a recipe build."""

# N batch, C channels, H W space; d[N, C] is a descriptor, x[N, C, H, W] a feature map.
# Space may have one, two or three dimensions, or none: then a map is [N, C].

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import nn

# Pickles of version 0.3 and earlier look for these classes in this file.
from accuracy_booster.blocks.gate_norm import GateNorm as GateNorm
from accuracy_booster.blocks.initialising import initialise
from accuracy_booster.blocks.pools import AverageGather as AverageGather
from accuracy_booster.blocks.pools import ChannelPool as ChannelPool
from accuracy_booster.blocks.pools import GlobalAveragePool as GlobalAveragePool
from accuracy_booster.blocks.pools import GlobalMaxPool as GlobalMaxPool
from accuracy_booster.ops import accumulation_dtype, leaf_module, without_autocast


class Dense(nn.Module):
    """A 1x1 convolution with `groups`: d[N, C] -> [N, K], or on a map [N, C, H, W] -> [N, K, H, W].

    weight is [K, C / groups]. With groups = C = K it is one number per channel: the paper's 1x1
    depthwise convolution. With groups = 1 it is a fully connected layer.
    """

    def __init__(
        self, in_channels: int, out_channels: int, *, groups: int = 1, bias: bool, init: str
    ):
        super().__init__()
        self.groups = groups
        self.weight = nn.Parameter(torch.empty(out_channels, in_channels // groups))
        self.bias = nn.Parameter(torch.empty(out_channels)) if bias else None
        initialise(self.weight, self.bias, init)

    @property
    def depthwise(self) -> bool:
        """Whether there is one weight per channel. Then the layer is a product per channel."""
        return self.groups == self.weight.shape[0] and self.weight.shape[1] == 1

    @leaf_module()
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if x.ndim > 2:
            conv = (F.conv1d, F.conv2d, F.conv3d)[x.ndim - 3]
            weight = self.weight[(..., *[None] * (x.ndim - 2))]
            return conv(x, weight, self.bias, groups=self.groups)
        with without_autocast(x):  # N * C values: full precision costs nothing
            return self._of_vectors(x)

    def _of_vectors(self, x: torch.Tensor) -> torch.Tensor:
        x = x.to(self.weight.dtype)
        if self.groups == 1:
            return F.linear(x, self.weight, self.bias)
        if self.depthwise:
            y = x * self.weight[:, 0]
        else:
            weight = self.weight.unflatten(0, (self.groups, -1))
            y = torch.einsum("ngi,goi->ngo", x.unflatten(1, (self.groups, -1)), weight).flatten(1)
        return y if self.bias is None else y + self.bias

    def extra_repr(self) -> str:
        out, per_group = self.weight.shape
        return (
            f"{per_group * self.groups}, {out}, groups={self.groups}, bias={self.bias is not None}"
        )


class Bottleneck(nn.Module):
    """SE's two dense layers with a ReLU between: C -> hidden -> C, hidden = max(1, C // reduction).

    With init="zeros" the second layer starts at zero, and the first at its default. The hidden
    width is as in the SE paper's code. timm's SE rounds it to a multiple of 8 instead.
    """

    def __init__(self, channels: int, *, reduction: int, bias: bool, init: str):
        super().__init__()
        hidden = max(1, channels // reduction)
        # if both layers started at zero, neither would get a gradient
        self.reduce = Dense(
            channels, hidden, bias=bias, init="default" if init == "zeros" else init
        )
        self.act = nn.ReLU()
        self.expand = Dense(hidden, channels, bias=bias, init=init)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.expand(self.act(self.reduce(x)))


class ChannelConv1d(nn.Module):
    """d[N, C] -> [N, C]: one 1-D convolution along the channels (ECA)."""

    def __init__(self, kernel: int, *, bias: bool, init: str):
        super().__init__()
        self.weight = nn.Parameter(torch.empty(1, 1, kernel))
        self.bias = nn.Parameter(torch.empty(1)) if bias else None
        initialise(self.weight, self.bias, init)

    @leaf_module()
    def forward(self, d: torch.Tensor) -> torch.Tensor:
        d = d.to(self.weight.dtype)[:, None]
        with without_autocast(d):  # N * C values: full precision costs nothing
            return F.conv1d(d, self.weight, self.bias, padding=self.weight.shape[2] // 2)[:, 0]

    def extra_repr(self) -> str:
        return f"kernel={self.weight.shape[2]}, bias={self.bias is not None}"


class _SameSize:
    def __init__(
        self,
        inputs: int,
        outputs: int,
        kernel: int,
        *,
        groups: int = 1,
        stride: int = 1,
        bias: bool,
        init: str,
    ):
        super().__init__(  # type: ignore[call-arg]
            inputs, outputs, kernel, stride, padding=kernel // 2, groups=groups, bias=bias
        )
        initialise(self.weight, self.bias, init)  # type: ignore[attr-defined]

    @leaf_module()
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return super().forward(x)  # type: ignore[misc]


class Conv(_SameSize, nn.Conv2d):
    """`nn.Conv2d` with padding kernel // 2 and the initialisation that the recipe names."""


class Conv1(_SameSize, nn.Conv1d):
    """The same on [N, C, L]."""


class Conv3(_SameSize, nn.Conv3d):
    """The same on [N, C, D, H, W]."""


class _Global:
    def __init__(self, channels: int, size: tuple[int, ...], *, groups: int, bias: bool, init: str):
        super().__init__(channels, channels, size, groups=groups, bias=bias)  # type: ignore[call-arg]
        initialise(self.weight, self.bias, init)  # type: ignore[attr-defined]

    @leaf_module()
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        kernel = self.kernel_size  # type: ignore[attr-defined]
        if tuple(x.shape[2:]) != kernel:
            built, got = "x".join(map(str, kernel)), "x".join(map(str, x.shape[2:]))
            wanted = ", ".join(map(str, x.shape[2:])) + ("," if x.ndim == 3 else "")
            raise ValueError(
                f"this gate has a weight for each position of a {built} map and got a {got} map; "
                f"build it with spatial_size=({wanted}) or resize the input"
            )
        d = super().forward(x).flatten(1)  # type: ignore[misc]
        return d.to(accumulation_dtype(d.dtype))


class GlobalConv(_Global, nn.Conv2d):
    """x[N, C, H, W] -> d[N, C]: a convolution, full or depthwise, as large as the map.

    Raises:
        ValueError: for a map of another size than the one it was built for.
    """


class GlobalConv1(_Global, nn.Conv1d):
    """The same on [N, C, L]."""


class GlobalConv3(_Global, nn.Conv3d):
    """The same on [N, C, D, H, W]."""


# by the number of dimensions of space
CONVS: dict[int, type[Conv1] | type[Conv] | type[Conv3]] = {1: Conv1, 2: Conv, 3: Conv3}

GLOBAL_CONVS: dict[int, type[GlobalConv1] | type[GlobalConv] | type[GlobalConv3]] = {
    **{1: GlobalConv1, 2: GlobalConv, 3: GlobalConv3}
}


def learned_gather(channels: int, extent: int, spatial_dims: int, init: str) -> nn.Sequential:
    """Gather-Excite's gather with parameters: log2(extent) depthwise convolutions of stride 2.

    Each halves the map's sides and has a batch norm after it. With init="zeros" the last norm's
    gamma starts at zero; the rest keep their defaults, since with two factors at zero neither
    would get a gradient.
    """
    steps: list[nn.Module] = []
    count = int(math.log2(extent))
    zeros = init == "zeros"
    for step in range(1, count + 1):
        if step > 1:
            steps.append(nn.ReLU())
        first = "default" if zeros else init
        same_size = CONVS[spatial_dims]
        conv = same_size(channels, channels, 3, groups=channels, stride=2, bias=False, init=first)
        gamma = "zeros" if zeros and step == count else "ones"
        steps += [conv, GateNorm(channels, eps=1e-5, momentum=0.1, init=gamma)]
    return nn.Sequential(*steps)


def eca_width(channels: int) -> int:
    """ECA's kernel width for C channels: the odd number at or above |log2(C) / 2 + 1 / 2|, >= 3."""
    width = int(abs((math.log2(channels) + 1) / 2))
    return max(width if width % 2 else width + 1, 3)

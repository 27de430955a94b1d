"""The layers that the parts of a recipe build. Each is one thing with named weights."""

# N batch, C channels, H W space; d[N, C] is a descriptor, x[N, C, H, W] a feature map.
# Space may have one, two or three dimensions, or none: then a map is [N, C].

from __future__ import annotations

import math
import warnings
from collections.abc import Iterator
from contextlib import contextmanager

import torch
import torch.nn.functional as F
from torch import nn

from accuracy_booster.ops import accumulation_dtype, leaf_module, without_autocast
from accuracy_booster.ops.moments import processes_together

INITS = ("default", "kaiming_normal", "zeros", "ones")


def initialise(weight: torch.Tensor, bias: torch.Tensor | None, init: str) -> None:
    """Fill a layer's weight [out, in / groups, ...] and bias in place.

    The paper states no initialisation and says that its CIFAR results are PyTorch's, so `default`
    is what `nn.Conv2d` and `nn.Linear` do when nothing is said: U(-k, k), k = 1 / sqrt(fan_in).
    For AB (fan_in 1) that is U(-1, 1). It matters little for AB in the end: batch norm removes the
    scale of a weight, so only its sign and the effective eps, eps / w^2, are left of it.
    """
    with torch.no_grad():
        if init == "default":
            nn.init.kaiming_uniform_(weight, a=math.sqrt(5))
            if bias is not None:
                bound = 1 / math.sqrt(weight[0].numel())
                nn.init.uniform_(bias, -bound, bound)
            return
        if init == "kaiming_normal":
            nn.init.kaiming_normal_(weight, nonlinearity="relu")
        else:
            nn.init.constant_(weight, 0.0 if init == "zeros" else 1.0)
        if bias is not None:
            nn.init.zeros_(bias)


def spatial(x: torch.Tensor) -> tuple[int, ...]:
    """The dimensions of space of x[N, C, ...]."""
    return tuple(range(2, x.ndim))


class GlobalAveragePool(nn.Module):
    """x[N, C, H, W] -> d[N, C]: the mean over space, in float32 for 16-bit maps.

    The gate's batch norm divides by the spread *between samples*, which can be far smaller than
    the mean itself; rounding the mean to 16 bits first would round that spread away.
    """

    @leaf_module()
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        dtype = accumulation_dtype(x.dtype)
        return x.to(dtype) if x.ndim == 2 else x.mean(spatial(x), dtype=dtype)


class GlobalMaxPool(nn.Module):
    """x[N, C, H, W] -> d[N, C]: the maximum over space (CBAM)."""

    @leaf_module()
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        most = x if x.ndim == 2 else x.amax(spatial(x))
        return most.to(accumulation_dtype(x.dtype))


class AverageGather(nn.Module):
    """x[N, C, H, W] -> [N, C, ceil(H / e), ceil(W / e)]: Gather-Excite's gather without parameters.

    A mean over windows of 2e - 1, e apart, that counts no padding.
    """

    def __init__(self, extent: int):
        super().__init__()
        self.extent = extent

    @leaf_module()
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        e = self.extent
        if x.ndim < 5:
            pool = F.avg_pool1d if x.ndim == 3 else F.avg_pool2d
            return pool(x, 2 * e - 1, e, padding=e - 1, count_include_pad=False)
        # torch's own padding in 3-D refuses maps that are smaller than the window
        borders = (e - 1,) * 6
        inside = F.pad(torch.ones_like(x[:1, :1]), borders)
        mean = F.avg_pool3d(F.pad(x, borders), 2 * e - 1, e)
        return mean / F.avg_pool3d(inside, 2 * e - 1, e)

    def extra_repr(self) -> str:
        return f"extent={self.extent}"


class ChannelPool(nn.Module):
    """x[N, C, H, W] -> [N, 2, H, W]: maximum and mean over the channels, or mean and maximum.

    CBAM's authors have the maximum first.
    """

    order = "mean_max"  # of layers that were pickled before there was a choice

    def __init__(self, order: str):
        super().__init__()
        self.order = order

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        planes = x.amax(1, keepdim=True), x.mean(1, keepdim=True)
        return torch.cat(planes if self.order == "max_mean" else planes[::-1], 1)

    def extra_repr(self) -> str:
        return f"order={self.order}"


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
        """One weight per channel: computed as a product, not as a matrix multiplication."""
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

    With init="zeros" the second starts at zero and the first at its default.

    timm's SE rounds the hidden width to a multiple of 8 and its others round it up; the SE paper's
    code divides and floors.
    """

    def __init__(self, channels: int, *, reduction: int, bias: bool, init: str):
        super().__init__()
        hidden = max(1, channels // reduction)
        # of two factors at zero neither would get a gradient
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
        self, inputs: int, outputs: int, kernel: int, *, groups=1, stride=1, bias: bool, init: str
    ):
        super().__init__(  # type: ignore[call-arg]
            inputs, outputs, kernel, stride, padding=kernel // 2, groups=groups, bias=bias
        )
        initialise(self.weight, self.bias, init)  # type: ignore[attr-defined]

    @leaf_module()
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return super().forward(x)  # type: ignore[misc]


class Conv(_SameSize, nn.Conv2d):
    """`nn.Conv2d` (same size, stride 1 or 2) with the initialisation named by the recipe."""


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


SMALL_BATCH = 16  # values per channel under which a gate's batch norm warns, once


_warned = False


def _warn_of_small_batches(where: str, values: int) -> None:
    global _warned
    if _warned or torch.compiler.is_compiling():
        return
    _warned = True
    warnings.warn(
        f"the batch norm of the gate {where or '(not attached)'} sees {values} values per channel, "
        f"fewer than {SMALL_BATCH}: its statistics are noisy; use larger batches, synchronised "
        "norms, or put the gates' norms in eval mode",
        stacklevel=2,
    )


@contextmanager
def small_batches_allowed() -> Iterator[None]:
    """Within it no gate warns of a small batch, and the warning is still due afterwards."""
    global _warned
    before, _warned = _warned, True
    try:
        yield
    finally:
        _warned = before


class GateNorm(nn.modules.batchnorm._BatchNorm):
    """The batch norm inside a gate, on d[N, C] or on a map [N, C, H, W].

    On a descriptor it sees N values per channel, not N * H * W, so a batch of one has no spread.

    Raises:
        ValueError: in training mode with one value per channel; it names the layer.
    """

    where = ""  # the qualified name in the network; set when the gate is attached

    def __init__(self, channels: int, *, eps: float, momentum: float, init: str):
        super().__init__(channels, eps=eps, momentum=momentum)
        nn.init.constant_(self.weight, 0.0 if init == "zeros" else 1.0)

    def _check_input_dim(self, x: torch.Tensor) -> None:
        if not 2 <= x.ndim <= 5:
            raise ValueError(
                f"expected [N, C] or a map with 1 to 3 dimensions of space, got {list(x.shape)}"
            )

    @leaf_module()
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        values = x.numel() // x.shape[1] * processes_together() if self.training else SMALL_BATCH
        if values == 1:
            raise ValueError(
                f"the batch norm of the gate {self.where or '(not attached)'} got a batch of 1 in "
                "training mode, where it sees one value per channel and no spread; use batches of "
                "2 or more (drop_last=True drops a ragged last batch), or put this norm in eval "
                "mode to use its running statistics"
            )
        if 0 < values < SMALL_BATCH:
            _warn_of_small_batches(self.where, values)
        return super().forward(x.to(self.weight.dtype) if x.ndim == 2 else x)

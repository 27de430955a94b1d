"""The layers that describe a feature map without weights: pooling over space or over channels."""

# N batch, C channels, H W space; d[N, C] is a descriptor, x[N, C, H, W] a feature map.
# Space may have one, two or three dimensions, or none: then a map is [N, C].

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import nn

from accuracy_booster.ops import accumulation_dtype, leaf_module


def spatial(x: torch.Tensor) -> tuple[int, ...]:
    """The dimensions of space of x[N, C, ...]."""
    return tuple(range(2, x.ndim))


class GlobalAveragePool(nn.Module):
    """x[N, C, H, W] -> d[N, C]: the mean over space, in float32 for 16-bit maps.

    The gate's batch norm divides by the spread between samples. That can be far smaller than the
    mean, so a mean rounded to 16 bits would lose it.
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

    It is the mean over windows of width 2e - 1 at a stride of e; padding does not count.
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
        # torch's padding in 3-D refuses a map that is smaller than the window
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

    order = "mean_max"  # version 1 pickled this layer without an order

    def __init__(self, order: str):
        super().__init__()
        self.order = order

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        planes = x.amax(1, keepdim=True), x.mean(1, keepdim=True)
        return torch.cat(planes if self.order == "max_mean" else planes[::-1], 1)

    def extra_repr(self) -> str:
        return f"order={self.order}"

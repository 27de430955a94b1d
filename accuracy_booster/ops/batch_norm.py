"""Batch norm from the moments of each sample: `F.batch_norm` in training mode, in two steps.

    var_nc, mean_nc = var_mean(x, over H and W, correction=0)
    mean = mean_n(mean_nc),  var = mean_n(var_nc) + mean_n((mean_nc - mean)^2)

A compiler reduces over N, H and W in one loop that few channels keep from being parallel; over each
sample and channel it is. Processes merge their moments in the same way (`training.synchronise`).
"""

# N batch, C channels, H W space; M = N * H * W

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch.overrides import TorchFunctionMode

from accuracy_booster.ops.precision import accumulation_dtype

Moments = tuple[torch.Tensor, torch.Tensor, Any]  # mean[C], var[C] (correction 0), M


def moments(x: torch.Tensor) -> Moments:
    """x[N, C, ...] -> its mean and variance per channel, and the number of values."""
    count = x.numel() // x.shape[1]
    if x.ndim == 2:
        var, mean = torch.var_mean(x, 0, correction=0)
        return mean, var, count
    var_nc, mean_nc = torch.var_mean(x, list(range(2, x.ndim)), correction=0)
    mean = mean_nc.mean(0)
    return mean, var_nc.mean(0) + (mean_nc - mean).square().mean(0), count


def batch_norm(
    input: torch.Tensor,
    running_mean: torch.Tensor | None,
    running_var: torch.Tensor | None,
    weight: torch.Tensor | None = None,
    bias: torch.Tensor | None = None,
    training: bool = True,
    momentum: float | None = 0.1,
    eps: float = 1e-5,
    *,
    merge: Callable[[Moments], Moments] = lambda found: found,
) -> torch.Tensor:
    """`F.batch_norm` in training mode; statistics in float32 for 16-bit x.

    `merge` may put the moments of several processes together. The running variance takes
    M / (M - 1), as PyTorch's.
    """
    x = input.to(accumulation_dtype(input.dtype))
    mean, var, count = merge(moments(x))
    if running_mean is not None and running_var is not None:
        with torch.no_grad():
            factor = 0.0 if momentum is None else momentum
            unbiased = var * (count / (count - 1 + (count == 1)))
            running_mean.lerp_(mean.to(running_mean.dtype), factor)
            running_var.lerp_(unbiased.to(running_var.dtype), factor)
    scale = torch.rsqrt(var + eps)
    if weight is not None:
        scale = scale * weight
    shift = -mean * scale if bias is None else bias - mean * scale
    # expanded over the samples, so that their gradients too are reduced in two steps
    shape = [len(x), x.shape[1]] + [1] * (x.ndim - 2)
    y = x * scale.expand(len(x), -1).view(shape) + shift.expand(len(x), -1).view(shape)
    return y.to(input.dtype)


_NAMES = ("input", "running_mean", "running_var", "weight", "bias", "training", "momentum", "eps")


class BatchNorms(TorchFunctionMode):
    """`with BatchNorms():` every `F.batch_norm` in training mode is this one.

    The gates' norms and those inside other libraries' layers too; no module changes.
    """

    def __init__(self, merge: Callable[[Moments], Moments] = lambda found: found):
        super().__init__()
        self.merge = merge

    def __torch_function__(
        self, func: Callable, types: Any, args: tuple = (), kwargs: dict | None = None
    ):
        kwargs = kwargs or {}
        if func is F.batch_norm:
            given = dict(zip(_NAMES, args)) | kwargs  # noqa: B905 - not all are given
            if given.get("training"):
                return batch_norm(**given, merge=self.merge)
        return func(*args, **kwargs)

"""Batch norm from the moments of each sample: `F.batch_norm` in training mode, in two steps.

A compiler reduces over N, H and W in one loop that few channels keep from being parallel; over each
sample and channel it is. Processes merge their moments in the same way (`training.processes`).
"""

# N batch, C channels, H W space; M = N * H * W

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack
from typing import Any

import torch
import torch.nn.functional as F
from torch.overrides import TorchFunctionMode

from accuracy_booster.ops.moments import (
    Merge,
    Moments,
    merged,
    merging,
    over_samples,
    update_running,
)
from accuracy_booster.ops.precision import accumulation_dtype


def moments(x: torch.Tensor) -> Moments:
    """x[N, C, ...] -> its mean and variance per channel, and the number of values."""
    if x.ndim == 2:
        var, mean = torch.var_mean(x, 0, correction=0)
        return merged((mean, var, len(x)))
    var_nc, mean_nc = torch.var_mean(x, list(range(2, x.ndim)), correction=0)
    return over_samples(mean_nc, var_nc, x[0, 0].numel())


def batch_norm(
    input: torch.Tensor,
    running_mean: torch.Tensor | None,
    running_var: torch.Tensor | None,
    weight: torch.Tensor | None = None,
    bias: torch.Tensor | None = None,
    training: bool = True,
    momentum: float | None = 0.1,
    eps: float = 1e-5,
) -> torch.Tensor:
    """`F.batch_norm` in training mode; statistics in float32 for 16-bit x.

    The running variance takes M / (M - 1), as PyTorch's.
    """
    x = input.to(accumulation_dtype(input.dtype))
    found = moments(x)
    update_running(running_mean, running_var, found, momentum)
    mean, var, _ = found
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

    The gates' norms and those inside other libraries' layers too; no module changes. `merge` may
    put the moments of several processes together.
    """

    def __init__(self, merge: Merge | None = None):
        super().__init__()
        self.merge = merge
        self._scope = ExitStack()

    def __enter__(self):
        self._scope.enter_context(merging(self.merge))
        return super().__enter__()

    def __exit__(self, *error: Any):
        self._scope.close()
        return super().__exit__(*error)

    def __torch_function__(
        self, func: Callable, types: Any, args: tuple = (), kwargs: dict | None = None
    ):
        kwargs = kwargs or {}
        if func is F.batch_norm:
            given = dict(zip(_NAMES, args)) | kwargs  # noqa: B905 - not all are given
            if given.get("training"):
                return batch_norm(**given)
        return func(*args, **kwargs)

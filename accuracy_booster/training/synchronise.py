"""Batch norms that take the moments of all processes together, on any device.

torch's SyncBatchNorm refuses CPU tensors. Here every call of `F.batch_norm` in training mode, the
gates' and those inside other libraries' layers too, merges the processes' moments, weighted by
their counts, within a scope and without changing a module.
"""

# N batch, C channels, H W space

from __future__ import annotations

import contextlib
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch.overrides import TorchFunctionMode


def synchronised(on: bool = True) -> contextlib.AbstractContextManager:
    """`with synchronised():` batch norms in training mode are those of all processes."""
    return _Synchronised() if on else contextlib.nullcontext()


class _Synchronised(TorchFunctionMode):
    def __torch_function__(
        self, func: Callable, types: Any, args: tuple = (), kwargs: dict | None = None
    ):
        kwargs = kwargs or {}
        if func is F.batch_norm:
            bound = dict(zip(_NAMES, args, strict=False)) | kwargs
            if bound.get("training"):
                return batch_norm(**bound)
        return func(*args, **kwargs)


_NAMES = ("input", "running_mean", "running_var", "weight", "bias", "training", "momentum", "eps")


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
    """`F.batch_norm` in training mode over the processes' x[N, C, ...] together.

    The moments of each process are merged as mean = sum n_i mean_i / M and
    var = sum n_i (var_i + (mean_i - mean)^2) / M; the running variance takes M / (M - 1).
    """
    from torch.distributed.nn.functional import all_reduce

    x = input.float() if input.dtype in (torch.float16, torch.bfloat16) else input
    dims = [d for d in range(x.ndim) if d != 1]
    shape = [1, -1] + [1] * (x.ndim - 2)
    var, mean = torch.var_mean(x, dims, correction=0)
    count = x.numel() // x.shape[1]
    sums = all_reduce(torch.cat([mean * count, mean.new_tensor([count])]))
    total = sums[-1].detach()
    merged = sums[:-1] / total
    spread = all_reduce(count * (var + (mean - merged).square())) / total
    if running_mean is not None and running_var is not None:
        with torch.no_grad():
            factor = 0.0 if momentum is None else momentum
            running_mean.lerp_(merged.to(running_mean.dtype), factor)
            unbiased = spread * (total / (total - 1).clamp(min=1))
            running_var.lerp_(unbiased.to(running_var.dtype), factor)
    y = (x - merged.view(shape)) * torch.rsqrt(spread + eps).view(shape)
    if weight is not None:
        y = y * weight.view(shape)
    if bias is not None:
        y = y + bias.view(shape)
    return y.to(input.dtype)

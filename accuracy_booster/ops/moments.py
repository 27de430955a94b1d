"""Moments of each sample and channel, and how those of samples and of processes are put together.

var_nc, mean_nc = var_mean(x, over H and W, correction=0)
mean = mean_n(mean_nc),  var = mean_n(var_nc) + mean_n((mean_nc - mean)^2)
"""

# N batch, C channels, H W space; M = N * H * W

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch

Moments = tuple[torch.Tensor, torch.Tensor, Any]  # mean[C], var[C] (correction 0), M
Merge = Callable[[Moments], Moments]

_merge: Merge | None = None  # of several processes; set within `merging`


@contextmanager
def merging(merge: Merge | None) -> Iterator[None]:
    """Within it, batch statistics pass through `merge`, which puts those of processes together."""
    global _merge
    before, _merge = _merge, merge
    try:
        yield
    finally:
        _merge = before


def processes_together() -> int:
    """How many processes' batch statistics are put together here: 1 outside of `merging`."""
    group = torch.distributed
    if _merge is None or not (group.is_available() and group.is_initialized()):
        return 1
    return group.get_world_size()


def over_samples(
    mean_nc: torch.Tensor, var_nc: torch.Tensor, area: int, merge: Merge | None = None
) -> Moments:
    """mean[N, C] and variance[N, C] over `area` positions each -> those of the whole batch.

    `merge` puts processes together; by default that of the scope does.
    """
    mean = mean_nc.mean(0)
    var = var_nc.mean(0) + (mean_nc - mean).square().mean(0)
    return merged((mean, var, len(mean_nc) * area), merge)


def merged(found: Moments, merge: Merge | None = None) -> Moments:
    merge = merge or _merge
    return found if merge is None else merge(found)


@torch.no_grad()
def update_running(
    running_mean: torch.Tensor | None,
    running_var: torch.Tensor | None,
    found: Moments,
    momentum: float | None,
) -> None:
    """Move running statistics in place as PyTorch does: the variance takes M / (M - 1)."""
    if running_mean is None or running_var is None:
        return
    mean, var, count = found
    factor = 0.0 if momentum is None else momentum
    unbiased = var * (count / (count - 1 + (count == 1)))
    running_mean.lerp_(mean.to(running_mean.dtype), factor)
    running_var.lerp_(unbiased.to(running_var.dtype), factor)

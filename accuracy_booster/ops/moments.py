"""The mean and variance of a batch, from those of its samples and of several processes.

Batch norms that compute their own statistics use this: `batch_norm`, and the fused norms of
`fastpath`.
"""

# N batch, C channels, H W space

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import NamedTuple

import torch


class BatchMoments(NamedTuple):
    """Mean and variance of each channel over a whole batch.

    Attributes:
        mean: [C].
        var: [C], with correction 0: the mean squared deviation from the mean.
        size: how many values each channel has: N * H * W, of all processes if they are
            synchronised.
    """

    mean: torch.Tensor
    var: torch.Tensor
    size: int | torch.Tensor


# from one process's moments to those of all processes together
Synchronise = Callable[[BatchMoments], BatchMoments]


class _Scope:
    """What `synchronised_by` chose, for the whole process.

    It is a variable of the module and not a `contextvars.ContextVar`, because torch.compile notices
    when a variable of a module has changed since it compiled a function, and compiles the function
    again; of context variables it knows nothing.
    """

    def __init__(self) -> None:
        self.synchronise: Synchronise | None = None


_scope = _Scope()


@contextmanager
def synchronised_by(synchronise: Synchronise | None) -> Iterator[None]:
    """`with synchronised_by(f):` the moments of a batch are f(those of this process).

    None leaves each process its own.
    """
    before, _scope.synchronise = _scope.synchronise, synchronise
    try:
        yield
    finally:
        _scope.synchronise = before


def is_synchronised() -> bool:
    """Whether this is within `synchronised_by` of something."""
    return _scope.synchronise is not None


def synchronised_processes() -> int:
    """How many processes share the moments of a batch here: 1 outside of `synchronised_by`."""
    group = torch.distributed
    if _scope.synchronise is None or not (group.is_available() and group.is_initialized()):
        return 1
    return group.get_world_size()


def moments_of_samples(
    mean_nc: torch.Tensor, var_nc: torch.Tensor, area: int, synchronise: Synchronise | None = None
) -> BatchMoments:
    """The moments of each sample and channel -> those of the whole batch.

        mean = mean over n of mean_nc
        var  = mean over n of var_nc + mean over n of (mean_nc - mean)^2

    Args:
        mean_nc: the mean over space, [N, C].
        var_nc: the variance over space with correction 0, [N, C].
        area: how many positions of space each sample has.
        synchronise: combines processes; by default `synchronised_by` says what does.
    """
    mean = mean_nc.mean(0)
    var = var_nc.mean(0) + (mean_nc - mean).square().mean(0)
    return over_processes(BatchMoments(mean, var, len(mean_nc) * area), synchronise)


def over_processes(own: BatchMoments, synchronise: Synchronise | None = None) -> BatchMoments:
    """The moments of all processes; by default `synchronised_by` says what combines them."""
    synchronise = synchronise or _scope.synchronise
    return own if synchronise is None else synchronise(own)


@torch.no_grad()
def update_running_statistics(
    running_mean: torch.Tensor | None,
    running_var: torch.Tensor | None,
    moments: BatchMoments,
    momentum: float | None,
) -> None:
    """Move running statistics [C] towards a batch's moments, in place, as PyTorch does.

    With M values per channel the running variance takes the unbiased one, var * M / (M - 1).
    Where there are no running statistics, nothing happens.
    """
    if running_mean is None or running_var is None:
        return
    mean, var, size = moments
    factor = 0.0 if momentum is None else momentum
    unbiased = var * (size / (size - 1 + (size == 1)))
    running_mean.lerp_(mean.to(running_mean.dtype), factor)
    running_var.lerp_(unbiased.to(running_var.dtype), factor)

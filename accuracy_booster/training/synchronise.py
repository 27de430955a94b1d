"""Batch norms that take the moments of all processes together, on any device.

torch's SyncBatchNorm refuses CPU tensors. Here every batch norm in training mode merges the
processes' moments, weighted by their counts, within a scope.
"""

# C channels

from __future__ import annotations

from typing import Any

import torch

from accuracy_booster.ops.batch_norm import BatchNorms, Moments


class _Sum(torch.autograd.Function):
    """The sum over the processes; a gradient is the sum of theirs."""

    @staticmethod
    def forward(ctx: Any, x: torch.Tensor) -> torch.Tensor:
        total = x.detach().clone()
        torch.distributed.all_reduce(total)
        return total

    @staticmethod
    def backward(ctx: Any, grad: torch.Tensor) -> torch.Tensor:
        total = grad.contiguous().clone()
        torch.distributed.all_reduce(total)
        return total


def merged(found: Moments) -> Moments:
    """Each process's moments -> those of all.

    mean = sum n_i mean_i / M and var = sum n_i (var_i + (mean_i - mean)^2) / M.
    """
    mean, var, count = found
    sums = _Sum.apply(torch.cat([mean * count, mean.new_tensor([count])]))
    total = sums[-1].detach()
    together = sums[:-1] / total
    spread = _Sum.apply(count * (var + (mean - together).square())) / total
    return together, spread, total


def synchronised() -> BatchNorms:
    """`with synchronised():` batch norms in training mode are those of all processes."""
    return BatchNorms(merged)

"""Moments of several processes, put together on any device.

torch's SyncBatchNorm refuses CPU tensors; this does not.
"""

# C channels

from __future__ import annotations

from typing import Any

import torch

from accuracy_booster.ops.moments import Moments


class _Sum(torch.autograd.Function):
    """The sum over the processes; a gradient is the sum of theirs."""

    @staticmethod
    def forward(ctx: Any, x: torch.Tensor, group: Any) -> torch.Tensor:
        ctx.group = group
        total = x.detach().clone()
        torch.distributed.all_reduce(total, group=group)
        return total

    @staticmethod
    def backward(ctx: Any, grad: torch.Tensor) -> tuple[torch.Tensor, None]:
        total = grad.contiguous().clone()
        torch.distributed.all_reduce(total, group=ctx.group)
        return total, None


def merged(found: Moments, group: Any = None) -> Moments:
    """Each process's moments -> those of all.

    mean = sum n_i mean_i / M and var = sum n_i (var_i + (mean_i - mean)^2) / M.
    """
    mean, var, count = found
    sums = _Sum.apply(torch.cat([mean * count, mean.new_tensor([count])]), group)
    total = sums[-1].detach()
    together = sums[:-1] / total
    spread = _Sum.apply(count * (var + (mean - together).square()), group) / total
    return together, spread, total

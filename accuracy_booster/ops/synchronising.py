"""The moments of a batch over all processes, for `moments.synchronised_by`.

torch's SyncBatchNorm refuses tensors on the CPU; this runs on any device.
"""

# C channels

from __future__ import annotations

from typing import Any

import torch

from accuracy_booster.ops.moments import BatchMoments


class _SumOverProcesses(torch.autograd.Function):
    """The sum of each process's tensor; the gradient is the sum of the processes' gradients."""

    @staticmethod
    def forward(ctx: Any, x: torch.Tensor, group: Any) -> torch.Tensor:
        ctx.group = group
        total = x.detach().clone()
        torch.distributed.all_reduce(total, group=group)
        return total

    @staticmethod
    def backward(ctx: Any, grad: torch.Tensor) -> tuple[torch.Tensor, None]:
        if grad.requires_grad and torch.is_grad_enabled():  # for the gradient of the gradient
            return _SumOverProcesses.apply(grad, ctx.group), None
        total = grad.contiguous().clone()
        torch.distributed.all_reduce(total, group=ctx.group)
        return total, None


def moments_of_all_processes(own: BatchMoments, group: Any = None) -> BatchMoments:
    """This process's moments -> those of the batch that all processes have together.

    Process i has M_i values per channel, of M in all:

        mean = sum over i of M_i mean_i / M
        var  = sum over i of M_i (var_i + (mean_i - mean)^2) / M

    Args:
        own: the moments of this process.
        group: a process group of `torch.distributed`, by default all processes.

    Returns:
        The moments, whose size is a tensor of no dimensions.
    """
    mean, var, size = own
    sums = _SumOverProcesses.apply(torch.cat([mean * size, mean.new_tensor([size])]), group)
    all_size = sums[-1].detach()
    all_mean = sums[:-1] / all_size
    deviations = size * (var + (mean - all_mean).square())
    all_var = _SumOverProcesses.apply(deviations, group) / all_size
    return BatchMoments(all_mean, all_var, all_size)

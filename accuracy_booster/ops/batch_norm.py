"""Batch norm that reduces in two steps, over each sample's space and then over the samples.

It computes what `F.batch_norm` computes in training mode. torch.compile makes one loop over N, H
and W of torch's own, which runs in parallel over channels only; with few channels that is slow. The
reduction over space runs in parallel over samples and channels. The second step is also where the
moments of several processes can be combined.
"""

# N batch, C channels, H W space

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack
from typing import Any

import torch
import torch.nn.functional as F
from torch.overrides import TorchFunctionMode

from accuracy_booster.ops.moments import (
    BatchMoments,
    Synchronise,
    moments_of_samples,
    over_processes,
    synchronised_by,
    update_running_statistics,
)
from accuracy_booster.ops.precision import accumulation_dtype


def batch_moments(x: torch.Tensor) -> BatchMoments:
    """x[N, C, ...] -> the moments of each channel, of all processes if they are synchronised."""
    if x.ndim == 2:
        var, mean = torch.var_mean(x, 0, correction=0)
        return over_processes(BatchMoments(mean, var, len(x)))
    var_nc, mean_nc = torch.var_mean(x, list(range(2, x.ndim)), correction=0)
    return moments_of_samples(mean_nc, var_nc, x[0, 0].numel())


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
    """`F.batch_norm` in training mode, with its arguments; input is [N, C, ...], the others [C].

    For 16-bit input it computes in float32. Running statistics change in place.
    """
    x = input.to(accumulation_dtype(input.dtype))
    moments = batch_moments(x)
    update_running_statistics(running_mean, running_var, moments, momentum)
    scale = torch.rsqrt(moments.var + eps)
    if weight is not None:
        scale = scale * weight
    shift = -moments.mean * scale if bias is None else bias - moments.mean * scale
    # expanded over the samples, so that their gradients too are reduced in two steps
    shape = [len(x), x.shape[1]] + [1] * (x.ndim - 2)
    y = x * scale.expand(len(x), -1).view(shape) + shift.expand(len(x), -1).view(shape)
    return y.to(input.dtype)


_NAMES = ("input", "running_mean", "running_var", "weight", "bias", "training", "momentum", "eps")


class BatchNormMode(TorchFunctionMode):
    """`with BatchNormMode():` each `F.batch_norm` in training mode is `batch_norm` instead.

    No module changes, and the batch norms of gates and of other libraries' layers are included.
    `synchronise` combines the moments of several processes.
    """

    def __init__(self, synchronise: Synchronise | None = None) -> None:
        super().__init__()
        self.synchronise = synchronise
        self._scope = ExitStack()

    def __enter__(self) -> BatchNormMode:
        self._scope.enter_context(synchronised_by(self.synchronise))
        return super().__enter__()

    def __exit__(self, *error: Any) -> None:
        self._scope.close()
        super().__exit__(*error)

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Any,
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        kwargs = kwargs or {}
        if func is F.batch_norm:
            given = dict(zip(_NAMES, args)) | kwargs  # noqa: B905 - not all are given
            if given.get("training"):
                return batch_norm(**given)
        return func(*args, **kwargs)

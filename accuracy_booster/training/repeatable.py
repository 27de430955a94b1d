"""Convolutions that give the same bits each time, so that a training on a GPU can be repeated."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch


@contextmanager
def repeatable_convolutions(device: torch.device) -> Iterator[None]:
    """Within it, cuDNN uses only algorithms that always add in the same order.

    By default some of its gradients are sums in the order in which the GPU's processors finish, so
    that two runs of the same command end with different weights. Nor may cuDNN choose its
    algorithms by timing them, since that can come out differently. On the CPU nothing changes.
    """
    cudnn = torch.backends.cudnn
    before = cudnn.deterministic, cudnn.benchmark
    if device.type == "cuda":
        cudnn.deterministic, cudnn.benchmark = True, False
    try:
        yield
    finally:
        cudnn.deterministic, cudnn.benchmark = before

"""The shared memory through which the processes that load images hand over their batches.

`batches` and `detection.batches` assemble their batches in it, and `batches` checks its size.
"""

from __future__ import annotations

import math
import os
from collections.abc import Sequence

import torch
from torch.utils.data import get_worker_info

from accuracy_booster.errors import TrainingStopped

SHARED = "/dev/shm"  # where Linux keeps shared memory
PREFETCHED = 2  # batches that each process loads ahead, torch's default
FEWER = "use fewer --workers, or --workers 0"
REMEDY = f"{FEWER}, or a smaller --batch_size, or make {SHARED} larger (docker's --shm-size)"


def check_room(workers: int, batches: int, images: int, image_bytes: int) -> None:
    """Raise TrainingStopped unless shared memory has room for what the processes load ahead.

    Args:
        workers: the number of processes.
        batches: the number of batches in the pass.
        images: the number of images in the largest of them.
        image_bytes: the size of an image in bytes.
    """
    try:
        found = os.statvfs(SHARED)
    except (OSError, AttributeError):  # other systems keep shared memory elsewhere
        return
    page = 4096
    one = -(-images * image_bytes // page) * page + 2 * -(-8 * images // page) * page
    need = min(workers * PREFETCHED + 1, batches) * one
    if (free := found.f_bavail * found.f_frsize) < need:
        raise TrainingStopped(
            f"{workers} processes that load images need {_size(need)} of shared memory for batches "
            f"of {_size(one)}, and {_size(free)} are free in {SHARED}; {REMEDY}"
        )


def free_room() -> str:
    """How much shared memory is free, as part of an error message."""
    try:
        free = os.statvfs(SHARED)
    except (OSError, AttributeError):
        return "its free space is unknown"
    return f"{_size(free.f_bavail * free.f_frsize)} are free in {SHARED}"


def _size(size: float) -> str:
    return f"{size / 2**20:,.1f} MiB" if size >= 2**20 else f"{size / 2**10:,.0f} KiB"


def stacked(tensors: Sequence[torch.Tensor]) -> torch.Tensor:
    """tensors [*] -> [N, *]. The result is in shared memory if a loading process calls this.

    Otherwise torch would copy the batch there in a thread of that process. An error in that thread
    is lost, and the training waits forever.
    """
    first = tensors[0]
    out = _empty((len(tensors), *first.shape), first.dtype)
    return torch.stack(list(tensors), out=out)


def joined(tensors: Sequence[torch.Tensor]) -> torch.Tensor:
    """tensors [n] of any lengths -> [sum of n], in the same memory as `stacked` uses."""
    out = _empty((sum(map(len, tensors)),), tensors[0].dtype)
    return torch.cat(list(tensors), out=out)


def _empty(shape: tuple[int, ...], dtype: torch.dtype) -> torch.Tensor:
    if get_worker_info() is None:
        return torch.empty(shape, dtype=dtype)
    size = max(1, math.prod(shape)) * dtype.itemsize  # shared memory of 0 bytes does not exist
    storage = torch.UntypedStorage._new_shared(size)
    # torch's stubs lack this overload of `set_`
    return torch.empty(0, dtype=dtype).set_(storage, 0, shape)  # type: ignore[call-overload]

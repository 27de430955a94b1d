"""The memory meter: how much a step allocates at its highest point."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterator
from typing import Any

import torch


def peak_memory(step: Callable[[], Any], device: torch.device, *, warm_up: int = 0) -> int:
    """Bytes of tensors at the highest point of a step, above what is held before it.

    Args:
        warm_up: how often the step runs before it is measured.
    """
    for _ in range(warm_up):
        step()
    if device.type == "cuda":
        torch.cuda.synchronize(device)
        torch.cuda.reset_peak_memory_stats(device)
        before = torch.cuda.memory_allocated(device)
        step()
        torch.cuda.synchronize(device)
        return torch.cuda.max_memory_allocated(device) - before
    from torch.profiler import ProfilerActivity, profile

    activities = [ProfilerActivity.CPU]
    with _silent_stderr(), profile(activities=activities, profile_memory=True) as profiler:
        step()
    assert profiler.profiler is not None
    held = most = 0
    events = profiler.profiler.kineto_results.events()
    for event in sorted((e for e in events if e.name() == "[memory]"), key=lambda e: e.start_ns()):
        held += event.nbytes()
        most = max(most, held)
    return most


@contextlib.contextmanager
def _silent_stderr() -> Iterator[None]:
    """Silence the profiler's C++ code, which writes to descriptor 2 when it starts and stops."""
    kept = os.dup(2)
    nowhere = os.open(os.devnull, os.O_WRONLY)
    try:
        os.dup2(nowhere, 2)
        yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)
        os.close(nowhere)

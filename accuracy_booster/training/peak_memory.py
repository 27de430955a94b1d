"""The memory meter: how much a step allocates at its highest point."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

from accuracy_booster.progress import silent_stderr


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
    with silent_stderr(), profile(activities=activities, profile_memory=True) as profiler:
        step()
    assert profiler.profiler is not None
    held = most = 0
    events = profiler.profiler.kineto_results.events()
    for event in sorted((e for e in events if e.name() == "[memory]"), key=lambda e: e.start_ns()):
        held += event.nbytes()
        most = max(most, held)
    return most

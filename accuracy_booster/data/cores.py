"""How many processor cores this process may use. It needs no torch."""

from __future__ import annotations

import os


def usable_cores() -> int:
    """The cores that the system lets this process use, at least 1."""
    allowed = getattr(os, "sched_getaffinity", None)  # Linux alone has it
    return len(allowed(0)) if allowed else os.cpu_count() or 1

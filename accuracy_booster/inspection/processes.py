"""Gather what the processes of torchrun found, or the error of one of them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

T = TypeVar("T")


def gathered(work: Callable[[], T]) -> list[T]:
    """What `work` returns in each process, in the order of their ranks; one item without torchrun.

    Raises:
        ValueError: in all processes, if `work` failed in one of them. So none waits forever for
            another. The process that failed raises its own error.
    """
    from torch import distributed

    if not (distributed.is_available() and distributed.is_initialized()):
        return [work()]
    result: tuple[T | None, str]
    failed: Exception | None = None
    try:
        result = work(), ""
    except Exception as e:
        failed, result = e, (None, str(e) or type(e).__name__)
    every: list[Any] = [None] * distributed.get_world_size()
    distributed.all_gather_object(every, result)
    if failed is not None:
        raise failed
    for rank, (_, reason) in enumerate(every):
        if reason:
            raise ValueError(f"process {rank}: {reason}")
    return [value for value, _ in every]

"""Errors of the processes that load images, each turned into one line that says what to do.

`workers` and everything that trains or measures on a loader use them.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager

from accuracy_booster.data.shared_memory import FEWER, REMEDY, free_room
from accuracy_booster.errors import TrainingStopped

# How torch words its errors about the processes of a loader.
_CAUGHT = re.compile(r"Caught \w+ in (DataLoader worker process|pin memory thread)")
_KILLED = re.compile(r"DataLoader worker \(pid (\d+)\) is killed by signal: ([^.]*)")
_GONE = re.compile(r"DataLoader worker \(pid(?:\(s\))? ([\d, ]+)\) exited unexpectedly")
_NO_MEMORY = re.compile("MemoryError|(can't|cannot|unable to) allocate|out of memory", re.I)
_NO_SHARED = re.compile(r"shared memory|\(shm\)|torch_\d+|/dev/shm")
_MOST_CAUSES = 20


@contextmanager
def worker_faults() -> Iterator[None]:
    """Turn an error about a process that loads images into `TrainingStopped`, in one line.

    When such a process dies, torch raises wherever the main thread is at that moment, which may be
    in a training step. Other code may have turned torch's error into its own by then, so the causes
    of an error are looked at too.
    """
    try:
        yield
    except TrainingStopped:
        raise
    except Exception as e:
        cause: BaseException | None = e
        for _ in range(_MOST_CAUSES):
            if cause is None:
                break
            if line := explanation(cause):
                raise TrainingStopped(line) from e
            cause = cause.__cause__ or cause.__context__
        raise


def explanation(error: BaseException) -> str | None:
    """What to tell the user of an error that torch raises about a process; None for any other."""
    text = str(error)
    if _CAUGHT.match(text):
        last = " ".join(text.strip().splitlines()[-1].split())[:400]
        if _NO_MEMORY.search(last) and _NO_SHARED.search(last):
            what = f"no shared memory is left for a batch of images ({free_room()}): {last}"
            return f"{what}; {REMEDY}"
        if _NO_MEMORY.search(last):
            what = f"a process that loads images ran out of memory: {last}"
            return f"{what}; {FEWER}, or a smaller --batch_size"
        return f"a process that loads images failed: {last}"
    if found := _KILLED.search(text):
        who, signal = f"process {found[1]}, which loads images,", found[2]
        if "Bus error" in signal:
            return f"{who} lacked shared memory ({free_room()}); {REMEDY}"
        often = "; the system does so when memory runs out" if "Killed" in signal else ""
        return f"{who} was ended by a signal ({signal}){often}; {FEWER}"
    if found := _GONE.search(text):
        who = f"process {found[1]}, which loads images,"
        return f"{who} ended unexpectedly (killed, or out of memory); {FEWER}"
    return None


@contextmanager
def memory_errors() -> Iterator[None]:
    """Turn a lack of memory, where this process itself loads the images, into `TrainingStopped`."""
    try:
        yield
    except (MemoryError, RuntimeError) as e:
        if not (isinstance(e, MemoryError) or _NO_MEMORY.search(str(e))):
            raise
        reason = str(e).strip().splitlines()[-1] if str(e).strip() else type(e).__name__
        raise TrainingStopped(
            f"memory ran out while images were loaded: {reason}; use a smaller --batch_size"
        ) from e

"""The processes that load images: what befalls them ends a training in one line, and in time."""

from __future__ import annotations

import atexit
import contextlib
import math
import multiprocessing.process
import os
import re
import sys
import threading
from collections.abc import Iterator, Sequence
from functools import cache
from typing import Any
from weakref import WeakSet

import torch
from torch.utils.data import DataLoader, get_worker_info
from torch.utils.data._utils import signal_handling

from accuracy_booster.errors import TrainingStopped
from accuracy_booster.signals import ignore_in_worker

SHARED = "/dev/shm"  # where processes hand over batches on Linux
PREFETCHED = 2  # batches that each process loads ahead, torch's default
POLL = 5.0  # seconds between two looks at the processes while a batch is awaited
STOPPED_PATIENCE = 20.0  # seconds that one of them may be stopped
LOADER_PATIENCE = 300.0  # seconds without a batch
FEWER = "use fewer --workers, or --workers 0"

_CAUGHT = re.compile(r"Caught \w+ in (DataLoader worker process|pin memory thread)")
_KILLED = re.compile(r"DataLoader worker \(pid (\d+)\) is killed by signal: ([^.]*)")
_GONE = re.compile(r"DataLoader worker \(pid(?:\(s\))? ([\d, ]+)\) exited unexpectedly")
_NO_MEMORY = re.compile("MemoryError|(can't|cannot|unable to) allocate|out of memory", re.I)
_NO_SHARED = re.compile(r"shared memory|\(shm\)|torch_\d+|/dev/shm")
_running: WeakSet[DataLoader] = WeakSet()


@contextlib.contextmanager
def worker_faults() -> Iterator[None]:
    """Turn what befalls a process that loads images into `TrainingStopped`, in one line.

    torch raises for a process that dies wherever the main thread is, also in a training step.
    """
    try:
        yield
    except TrainingStopped:
        raise
    except Exception as e:
        found: BaseException | None = e
        for _ in range(20):  # another error may have been made of it on the way
            if found is None:
                break
            if line := _explained(found):
                raise TrainingStopped(line) from e
            found = found.__cause__ or found.__context__
        raise


def _explained(error: BaseException) -> str | None:
    """The line for an error that torch raises about a loader's process; None for any other."""
    text = str(error)
    if _CAUGHT.match(text):
        last = " ".join(text.strip().splitlines()[-1].split())[:400]
        if _NO_MEMORY.search(last) and _NO_SHARED.search(last):
            what = f"no shared memory is left for a batch of images ({_room()}): {last}"
            return f"{what}; {_larger()}"
        if _NO_MEMORY.search(last):
            what = f"a process that loads images ran out of memory: {last}"
            return f"{what}; {FEWER}, or a smaller --batch_size"
        return f"a process that loads images failed: {last}"
    if found := _KILLED.search(text):
        who, signal = f"process {found[1]}, which loads images,", found[2]
        if "Bus error" in signal:
            return f"{who} lacked shared memory ({_room()}); {_larger()}"
        often = "; the system does so when memory runs out" if "Killed" in signal else ""
        return f"{who} was ended by a signal ({signal}){often}; {FEWER}"
    if found := _GONE.search(text):
        who = f"process {found[1]}, which loads images,"
        return f"{who} ended unexpectedly (killed, or out of memory); {FEWER}"
    return None


def _room() -> str:
    try:
        free = os.statvfs(SHARED)
    except (OSError, AttributeError):
        return "its free space is unknown"
    return f"{_size(free.f_bavail * free.f_frsize)} are free in {SHARED}"


def _size(size: float) -> str:
    return f"{size / 2**20:,.1f} MiB" if size >= 2**20 else f"{size / 2**10:,.0f} KiB"


def _larger() -> str:
    return f"{FEWER}, or a smaller --batch_size, or make {SHARED} larger (docker's --shm-size)"


def begin(_: int = 0) -> None:
    """For a loader's process, at its start."""
    ignore_in_worker()
    # its thread that hands over batches would print a traceback when the training stops meanwhile
    sys.excepthook = lambda *_: None


def check_room(workers: int, batches: int, images: int, image_bytes: int) -> None:
    """Raise TrainingStopped unless shared memory has room for what the processes load ahead.

    Args:
        batches: how many there are at all, of up to `images` images of `image_bytes` bytes.
    """
    try:
        found = os.statvfs(SHARED)
    except (OSError, AttributeError):  # another system, which keeps shared memory elsewhere
        return
    page = 4096
    one = -(-images * image_bytes // page) * page + 2 * -(-8 * images // page) * page
    need = min(workers * PREFETCHED + 1, batches) * one
    if (free := found.f_bavail * found.f_frsize) < need:
        raise TrainingStopped(
            f"{workers} processes that load images need {_size(need)} of shared memory for batches "
            f"of {_size(one)}, and {_size(free)} are free in {SHARED}; {_larger()}"
        )


def stacked(tensors: Sequence[torch.Tensor]) -> torch.Tensor:
    """tensors [*] -> [N, *], in shared memory if this is a loader's process.

    torch would otherwise move a batch there in a thread of the process, where an error is lost and
    the training waits for ever.
    """
    first = tensors[0]
    out = _empty((len(tensors), *first.shape), first.dtype)
    return torch.stack(list(tensors), out=out)


def joined(tensors: Sequence[torch.Tensor]) -> torch.Tensor:
    """tensors [n] of any lengths -> [sum of n], where `stacked` has them."""
    out = _empty((sum(map(len, tensors)),), tensors[0].dtype)
    return torch.cat(list(tensors), out=out)


def _empty(shape: tuple[int, ...], dtype: torch.dtype) -> torch.Tensor:
    if get_worker_info() is None:
        return torch.empty(shape, dtype=dtype)
    size = max(1, math.prod(shape)) * dtype.itemsize  # no shared memory has 0 bytes
    storage = torch.UntypedStorage._new_shared(size)
    return torch.empty(0, dtype=dtype).set_(storage, 0, shape)  # type: ignore[call-overload]


def poll() -> float:
    """Seconds between two looks."""
    return min(POLL, STOPPED_PATIENCE, LOADER_PATIENCE)


def received(loader: DataLoader) -> Iterator[Any]:
    """The batches of one pass over a loader.

    Raises:
        TrainingStopped: where its processes cannot start, where one of them is stopped, and where
            no batch comes within `LOADER_PATIENCE` seconds.
    """
    if not loader.num_workers:
        yield from _received_here(loader)
        return
    _end_at_exit()
    _running.add(loader)
    watch = _Watch(loader)
    try:
        with watch:
            iterator = watch.begun()
        while True:
            with watch:
                batch = _next(iterator, watch)
            if batch is None:
                return
            yield batch
    finally:
        watch.done.set()


def _received_here(loader: DataLoader) -> Iterator[Any]:
    try:
        yield from loader
    except (MemoryError, RuntimeError) as e:
        if not (isinstance(e, MemoryError) or _NO_MEMORY.search(str(e))):
            raise
        reason = str(e).strip().splitlines()[-1] if str(e).strip() else type(e).__name__
        raise TrainingStopped(
            f"memory ran out while images were loaded: {reason}; use a smaller --batch_size"
        ) from e


def _next(iterator: Any, watch: _Watch) -> Any:
    """The next batch, or None after the last one."""
    while True:
        try:
            return next(iterator, None)
        except RuntimeError as e:
            if str(e).startswith("Too many open files"):
                raise TrainingStopped(
                    "too many files are open to take over batches; raise the limit (ulimit -n "
                    f"65536), or {FEWER}"
                ) from e
            if not str(e).startswith("DataLoader timed out") or watch.fault:
                raise
        except (EOFError, OSError) as e:  # it died while it handed over a batch
            if watch.fault or _explained(e):
                raise
            raise TrainingStopped(
                f"a process that loads images ended while it handed over a batch (killed, or out "
                f"of memory): {type(e).__name__}; {FEWER}"
            ) from e


class _Watch:
    """A thread that looks at a loader's processes while a batch is awaited: `with watch: ...`.

    The main thread itself may wait for a process without a limit, where it asks it for the file
    descriptor of a batch. So the thread kills the processes when it finds a fault, which ends any
    wait, and the fault is raised.
    """

    def __init__(self, loader: DataLoader):
        self.loader = loader
        self.done = threading.Event()
        self.awaited = 0  # batches that were awaited so far
        self.waiting = False
        self.fault = ""

    def begun(self) -> Any:
        """The loader's iterator, at the start of a pass."""
        fresh = self.loader._iterator is None
        thread = threading.Thread(target=self._look, daemon=True, name="watch of loaders")
        if not fresh:
            self.loader._iterator._timeout = 0  # type: ignore[union-attr]
            thread.start()
        try:
            iterator: Any = iter(self.loader)
        except (OSError, RuntimeError) as e:
            if self.fault or _explained(e):
                raise
            number, reason = self.loader.num_workers, e.strerror if isinstance(e, OSError) else ""
            raise TrainingStopped(
                f"cannot start {number} processes that load images: {reason or e}; {FEWER}"
            ) from e
        iterator._timeout = self.loader.timeout
        if fresh:  # not before the processes are forked
            thread.start()
        return iterator

    def __enter__(self) -> None:
        self.awaited += 1
        self.waiting = True

    def __exit__(self, kind: object, error: BaseException | None, traceback: object) -> None:
        self.waiting = False
        if isinstance(error, Exception) and self.fault:
            raise TrainingStopped(self.fault) from error

    def _look(self) -> None:
        # time is counted in looks: a whole training that was stopped for an hour goes on
        awaited, waited, stopped, every = 0, 0.0, 0.0, poll()
        while not self.done.wait(every):
            if not self.waiting or self.awaited != awaited:
                awaited, waited, stopped = self.awaited, 0.0, 0.0
                continue
            states = self._states()
            halted = [pid for pid, state in states.items() if state == "stopped"]
            waited, stopped = waited + every, stopped + every if halted else 0.0
            if stopped >= STOPPED_PATIENCE:
                self._stop(
                    f"process {halted[0]}, which loads images, has been stopped for {stopped:g} s "
                    f"(by SIGSTOP, as kill -STOP {halted[0]} sends it) and gives no batch; find "
                    "out what stops it, and start again, or use --workers 0"
                )
            elif waited >= LOADER_PATIENCE:
                doing = ", ".join(f"{pid}: {state}" for pid, state in list(states.items())[:8])
                self._stop(
                    f"no batch of images came within {waited:g} s from the processes that load "
                    f"them ({doing}); see whether the disk of the data still answers, and start "
                    "again with fewer --workers, a smaller --batch_size, or --workers 0"
                )

    def _states(self) -> dict[int, str]:
        """What each process is doing, as the system says."""
        import psutil

        states = {}
        for worker in getattr(self.loader._iterator, "_workers", ()):
            try:
                states[worker.pid] = psutil.Process(worker.pid).status()
            except psutil.Error:
                states[worker.pid] = "gone"
        return states

    def _stop(self, fault: str) -> None:
        if self.done.is_set():
            return
        self.fault = fault
        self.done.set()
        for worker in getattr(self.loader._iterator, "_workers", ()):
            worker.kill()


def end(loader: DataLoader) -> None:
    """End a loader's processes at once, also those that are stopped or that wait for a disk.

    torch asks them to end, and waits for a lock that one that was killed may have held.
    """
    _running.discard(loader)
    iterator: Any = getattr(loader, "_iterator", None)
    if iterator is None or not loader.num_workers:
        return
    loader._iterator = None
    iterator._shutdown = True  # torch has nothing left to do
    workers = list(iterator._workers)
    if any(worker._parent_pid != os.getpid() for worker in workers):
        return  # they are another process's, of which this one is a copy
    if iterator._worker_pids_set:  # else torch raises for the processes that are ended here
        signal_handling._remove_worker_pids(id(iterator))
        iterator._worker_pids_set = False
    for worker in workers:
        worker.kill()
    for worker in workers:
        worker.join(timeout=POLL)
        if worker.is_alive():  # it waits for a disk; Python would wait for it when it exits
            multiprocessing.process._children.discard(worker)  # type: ignore[attr-defined]
    for queue in (*iterator._index_queues, iterator._worker_result_queue):
        queue.cancel_join_thread()
        queue.close()


@cache
def _end_at_exit() -> None:
    """Python waits for ever, when it exits, for a process that is stopped."""

    def end_all() -> None:
        for loader in list(_running):
            end(loader)

    atexit.register(end_all)

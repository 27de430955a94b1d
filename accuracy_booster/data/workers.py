"""The processes that load images: they are watched while a batch is awaited, and they are ended.

A process that dies, is stopped or hangs ends the training with one line, and soon. `batches` takes
its batches through `received`.
"""

from __future__ import annotations

import multiprocessing.process
import os
import sys
import threading
import warnings
from collections.abc import Iterator
from multiprocessing import util
from typing import Any

from torch.utils.data import DataLoader
from torch.utils.data._utils import signal_handling

from accuracy_booster.data.shared_memory import FEWER
from accuracy_booster.data.worker_errors import explanation, memory_errors
from accuracy_booster.errors import TrainingStopped
from accuracy_booster.signals import ignore_in_worker

POLL = 5.0  # seconds between two looks at the processes while a batch is awaited
STOPPED_PATIENCE = 20.0  # seconds that a process may be stopped (SIGSTOP)
LOADER_PATIENCE = 300.0  # seconds without a batch


def begin(number: int = 0) -> None:
    """Prepare a process that loads images; torch calls it there with the process's number."""
    ignore_in_worker()
    if number:  # of Pillow's warnings, such as of a file's metadata, one process tells
        warnings.simplefilter("ignore")
    # When the training stops, the thread that hands over batches would print a traceback.
    sys.excepthook = lambda *_: None


def poll() -> float:
    """Seconds between two looks at the processes."""
    return min(POLL, STOPPED_PATIENCE, LOADER_PATIENCE)


def received(loader: DataLoader) -> Iterator[Any]:
    """The batches of one pass over a loader.

    Raises:
        TrainingStopped: if the loader's processes cannot start, if one of them is stopped, or if no
            batch comes within `LOADER_PATIENCE` seconds.
    """
    if not loader.num_workers:
        with memory_errors():
            yield from loader
        return
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
            # After `poll()` seconds torch gives up; the watch decides whether to wait on.
            if not str(e).startswith("DataLoader timed out") or watch.fault:
                raise
        except (EOFError, OSError) as e:  # the process died while it handed over a batch
            if watch.fault or explanation(e):
                raise
            raise TrainingStopped(
                f"a process that loads images ended while it handed over a batch (killed, or out "
                f"of memory): {type(e).__name__}; {FEWER}"
            ) from e


class _Watch:
    """A thread that looks at a loader's processes while a batch is awaited: `with watch: ...`.

    The main thread may wait without a limit: it asks a process for the file descriptor of a batch,
    and that process may be stopped. So when the thread finds a fault, it kills the processes. That
    ends any wait, and the fault is raised.
    """

    def __init__(self, loader: DataLoader):
        self.loader = loader
        self.done = threading.Event()
        self.awaited = 0  # batches that were awaited so far
        self.waiting = False
        self.fault = ""

    def begun(self) -> Any:
        """The loader's iterator at the start of a pass. The first pass starts the processes."""
        fresh = self.loader._iterator is None
        thread = threading.Thread(target=self._look, daemon=True, name="watch of loaders")
        if not fresh:
            # mypy does not see that the iterator is not None here
            self.loader._iterator._timeout = 0  # type: ignore[union-attr]
            thread.start()
        try:
            iterator: Any = iter(self.loader)
        except (OSError, RuntimeError) as e:
            if self.fault or explanation(e):
                raise
            number, reason = self.loader.num_workers, e.strerror if isinstance(e, OSError) else ""
            raise TrainingStopped(
                f"cannot start {number} processes that load images: {reason or e}; {FEWER}"
            ) from e
        iterator._timeout = self.loader.timeout
        if fresh:
            # Python waits forever, when it exits, for a process that is stopped. It calls this
            # before it waits, and also when the loader is freed. The priority puts it before the
            # queues' own finalizers, and a fork of this process does not call it.
            util.Finalize(self.loader, _end_processes, args=(iterator,), exitpriority=100)
            thread.start()  # only now, since a process must not be forked from two threads
        return iterator

    def __enter__(self) -> None:
        self.awaited += 1
        self.waiting = True

    def __exit__(self, kind: object, error: BaseException | None, traceback: object) -> None:
        self.waiting = False
        if isinstance(error, Exception) and self.fault:
            raise TrainingStopped(self.fault) from error

    def _look(self) -> None:
        # Looks are counted, not hours: if the whole training was stopped for an hour, it goes on.
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
        """The state of each process, as the system names it."""
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
    """End a loader's processes at once, also one that is stopped or waits for a disk."""
    iterator: Any = getattr(loader, "_iterator", None)
    if iterator is None or not loader.num_workers:
        return
    loader._iterator = None
    _end_processes(iterator)


def _end_processes(iterator: Any) -> None:
    """Kill the processes of a loader's iterator. A second call does nothing.

    torch's own way asks them to end, and waits for a lock that a killed one may have held.
    """
    if iterator._shutdown:
        return
    iterator._shutdown = True  # so that torch does not end them once more
    workers = list(iterator._workers)
    if any(worker._parent_pid != os.getpid() for worker in workers):
        return  # this process is a fork of the one that they belong to
    if iterator._worker_pids_set:  # else torch raises an error for the processes that end here
        signal_handling._remove_worker_pids(id(iterator))
        iterator._worker_pids_set = False
    for worker in workers:
        worker.kill()
    for worker in workers:
        worker.join(timeout=POLL)
        if worker.is_alive():  # it waits for a disk, and Python would wait for it when it exits
            children: Any = multiprocessing.process
            children._children.discard(worker)
    for queue in (*iterator._index_queues, iterator._worker_result_queue):
        queue.cancel_join_thread()
        queue.close()

"""A lock on a run's directory that dies with its process, however that ends."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from accuracy_booster.errors import TrainingStopped

LOCK = ".lock"


def _take(descriptor: int) -> bool:
    """A lock of this process alone: a loader's worker does not inherit it."""
    try:
        import fcntl
    except ImportError:  # Windows
        import msvcrt

        try:
            msvcrt.locking(descriptor, msvcrt.LK_NBLCK, 1)  # type: ignore[attr-defined]
        except OSError:
            return False
        return True
    try:
        fcntl.lockf(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except PermissionError:
        return False
    return True


class InUse(ValueError):
    """Another process holds the lock."""


_held: set[str] = set()  # the system's lock does not keep a process from itself


@dataclass(frozen=True)
class Lock:
    """A held lock: the run's directory, and the open lock file in it."""

    run: Path
    descriptor: int

    def check(self) -> None:
        """Raise TrainingStopped if the directory was removed, or made anew by somebody else."""
        own = os.fstat(self.descriptor)
        try:
            now = os.stat(self.run / LOCK)
        except OSError:
            now = None
        if now is None or (now.st_dev, now.st_ino) != (own.st_dev, own.st_ino):
            raise TrainingStopped(
                f"{self.run} was removed or replaced while this training ran, so its result is "
                "lost; nothing more was written there; train again, in another --output"
            )


@contextlib.contextmanager
def locked(run: Path) -> Iterator[Lock]:
    """Hold the run's lock.

    Raises:
        InUse: if another process holds it.
        ValueError: if it cannot be written to.
    """
    key = str(run.resolve())
    refusal = f"{run} is in use: another process is training there"
    if key in _held:  # before a second descriptor, whose closing would free the system's lock
        raise InUse(refusal)
    try:
        descriptor = os.open(run / LOCK, os.O_RDWR | os.O_CREAT, 0o644)
    except OSError as e:
        raise ValueError(f"cannot write to {run}: {e.strerror or e}") from e
    try:
        if not _take(descriptor):
            raise InUse(refusal)
        _held.add(key)
        try:
            yield Lock(run, descriptor)
        finally:
            _held.discard(key)
    finally:
        os.close(descriptor)


def is_locked(run: Path) -> bool:
    """Whether a process is training there now."""
    if str(run.resolve()) in _held:
        return True
    if not (run / LOCK).exists():
        return False
    try:
        descriptor = os.open(run / LOCK, os.O_RDWR)
    except OSError:
        return False
    try:
        return not _take(descriptor)
    finally:
        os.close(descriptor)

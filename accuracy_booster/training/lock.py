"""A lock on a run's directory, which the system frees when its process ends, however it ends."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from accuracy_booster.errors import TrainingStopped

LOCK = ".lock"


def _take(descriptor: int) -> bool:
    """Try to lock an open file for this process alone, so that no loader's worker inherits it."""
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
    except (BlockingIOError, PermissionError):
        return False
    return True


def _is_held(key: str) -> bool:
    return _held.get(key) == os.getpid()


class InUse(ValueError):
    """Another process holds the lock."""


# The directories that this process has locked, and its number: a forked child holds none of them.
# It must be global. The system's lock belongs to the process, which it does not keep out, and it is
# freed as soon as any part of the process closes another descriptor of the same file. So every call
# must know of all locks of the process, before it opens the file.
_held: dict[str, int] = {}


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
    """Hold the lock of a run's directory.

    Raises:
        InUse: if another process holds it, or this one does already.
        ValueError: if the directory cannot be written to.
    """
    key = str(run.resolve())
    refusal = f"{run} is in use: another process is training there"
    if _is_held(key):
        raise InUse(refusal)
    try:
        descriptor = os.open(run / LOCK, os.O_RDWR | os.O_CREAT, 0o644)
    except OSError as e:
        raise ValueError(f"cannot write to {run}: {e.strerror or e}") from e
    try:
        if not _take(descriptor):
            raise InUse(refusal)
        _held[key] = os.getpid()
        try:
            yield Lock(run, descriptor)
        finally:
            del _held[key]
    finally:
        os.close(descriptor)


def is_locked(run: Path) -> bool:
    """Whether a process, this one or another, is training there now."""
    if _is_held(str(run.resolve())):
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

"""Forked processes that die at chosen instants: what the measurements of faults share."""

from __future__ import annotations

import os
import random
import signal
import sys
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from PIL import ImageFile

from accuracy_booster.training import classification


def class_folders(
    root: Path, counts: dict[str, int], classes: int
) -> Iterator[tuple[Path, int, int]]:
    """Make SPLIT/classN folders; (folder, N, number) of each image that is to be put there."""
    for split, count in counts.items():
        for label in range(classes):
            folder = root / split / f"class{label}"
            folder.mkdir(parents=True)
            for i in range(count):
                yield folder, label, i


def in_child(work: Callable[[], None], log: Path) -> int:
    """Fork, work, exit; returns the process's number. Nothing is imported anew."""
    pid = os.fork()
    if pid:
        return pid
    try:
        descriptor = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        os.dup2(descriptor, 1)
        os.dup2(descriptor, 2)
        work()
        os._exit(0)
    except BaseException:
        traceback.print_exc()
        sys.stderr.flush()
        os._exit(1)


def wait(pid: int) -> int:
    """The signal that ended a process, or its exit code as a negative number or 0."""
    _, status = os.waitpid(pid, 0)
    return os.WTERMSIG(status) if os.WIFSIGNALED(status) else -os.WEXITSTATUS(status)


def die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def plant(place: str, generator: random.Random, latest: int | None = None) -> None:
    """Make this process kill itself at a random instant of one kind, not after the `latest`."""
    count = [generator.randrange(1, latest or (60 if place == "checkpoint" else 40))]

    def countdown() -> None:
        count[0] -= 1
        if count[0] == 0:
            die()

    if place == "checkpoint":
        # between and inside the system's calls of a write: a part of the bytes, no flush, no rename
        real_fsync, real_replace, real_open = os.fsync, Path.replace, Path.open

        class Half:
            def __init__(self, file: Any):
                self.file = file

            def __enter__(self):
                return self

            def __exit__(self, *error: Any) -> None:
                self.file.close()

            def __getattr__(self, name: str) -> Any:
                return getattr(self.file, name)

            def write(self, content: bytes) -> None:
                some = generator.randrange(len(content) + 1)
                self.file.write(content[:some])
                self.file.flush()
                countdown()
                self.file.write(content[some:])

        def fsync(descriptor: int) -> None:
            countdown()
            real_fsync(descriptor)
            countdown()

        def replace(self: Path, target: Any) -> Path:
            countdown()
            out = real_replace(self, target)
            countdown()
            return out

        def opened(self: Path, mode: str = "r", *rest: Any, **more: Any) -> Any:
            file = real_open(self, mode, *rest, **more)
            return Half(file) if mode == "wb" else file

        os.fsync, Path.replace, Path.open = fsync, replace, opened  # type: ignore
    elif place == "evaluation":
        count[0] = generator.randrange(1, 15)  # 5 batches an epoch
        real = classification.measure

        def measure(model: Any, loader: Any, data: Any, accelerator: Any, on_batch: Any) -> Any:
            def each(batch: Any) -> None:
                countdown()
                on_batch(batch)

            return real(model, loader, data, accelerator, each)

        classification.measure = measure
    elif place == "loader":
        count[0] = generator.randrange(1, 240)  # images
        real_load = ImageFile.ImageFile.load

        def load(self: Any) -> Any:
            if self.tile:  # not decoded yet
                countdown()
            return real_load(self)

        ImageFile.ImageFile.load = load  # type: ignore

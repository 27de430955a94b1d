"""Errors and warnings as one line each on stderr, and the exit code that an error gives."""

from __future__ import annotations

import errno
import os
import sys
from contextlib import suppress
from typing import Any

from accuracy_booster.cli.command import PROGRAM
from accuracy_booster.errors import (
    FailsParity,
    TrainingInterrupted,
    TrainingStopped,
    is_out_of_memory,
    shortened,
)
from accuracy_booster.progress import printable

LONGEST_LINE = 2000  # characters; an error that quotes a long value is shortened to this
BROKEN_PIPE = 141  # 128 + SIGPIPE, as a shell reports it
INTERRUPTED = 130  # 128 + SIGINT


def exit_code_of(error: BaseException) -> int | None:
    """Tell the user of an error in one line, and give the program's exit code.

    None, and no line, for an error that is a fault of the program's own.
    """
    if isinstance(error, KeyboardInterrupt):
        _print_line("interrupted")
        return INTERRUPTED
    if isinstance(error, OSError) and error.errno in (errno.EPIPE, errno.ENOSPC, errno.EIO):
        _discard_stdout()
        if isinstance(error, BrokenPipeError):
            return BROKEN_PIPE
    if isinstance(error, TrainingInterrupted):
        if os.environ.get("RANK", "0") == "0":
            _print_line(f"{PROGRAM}: {error}")
        return 128 + error.signal
    if is_out_of_memory(error):
        reason = shortened(" ".join(str(error).split()), 300) or type(error).__name__
        _print_line(
            f"{PROGRAM}: error: out of memory ({reason}); use a smaller batch, --accumulate, a "
            "smaller image_size or a smaller network"
        )
        return 1
    if "torchvision::nms does not exist" in str(error):
        _print_line(
            f"{PROGRAM}: error: torch and torchvision do not fit together: they must come from the "
            "same index, such as both from PyTorch's for the CPU (docs/installing.md says how)"
        )
        return 1
    if isinstance(error, ModuleNotFoundError) and _is_package(error.name):
        _print_line(
            f"{PROGRAM}: error: this takes {error.name}, which is not installed; "
            f"pip install {PROGRAM} installs all that commands take"
        )
        return 1
    if isinstance(error, (RecursionError, OverflowError)):
        what = "is nested too deeply" if isinstance(error, RecursionError) else "has a huge number"
        _print_line(f"{PROGRAM}: error: the input {what} ({shortened(str(error), 300)})")
        return 2
    if isinstance(error, (ValueError, TrainingStopped, FailsParity, OSError)):
        _print_line(f"{PROGRAM}: error: {error}")
        return 2 if isinstance(error, ValueError) else 1
    return None


def _is_package(name: str | None) -> bool:
    """Whether a module that is missing is a package of others, and not a part of one or ours."""
    return name is not None and "." not in name and name != "accuracy_booster"


class ShowWarnings:
    """Prints each warning as one line, and once; it takes the place of `warnings.showwarning`.

    Python's own memory of what was shown is lost wherever a library changes the filters.
    """

    def __init__(self) -> None:
        self._told: set[str] = set()

    def __call__(self, message: Warning | str, *where: Any, **more: Any) -> None:
        if (text := str(message)) not in self._told:
            self._told.add(text)
            _print_line(f"{PROGRAM}: warning: {text}")


def _print_line(text: str) -> None:
    """Print one line on stderr, with control characters escaped and no longer than a screen."""
    line = shortened(" ".join(text.split()), LONGEST_LINE)
    line = shortened(printable(line), LONGEST_LINE)  # escaping makes it longer
    with suppress(OSError):  # stderr may be closed
        print(line, file=sys.stderr, flush=True)


def _discard_stdout() -> None:
    """Send what is still to be printed nowhere: stdout is closed, or its disk is full."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)

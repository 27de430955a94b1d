"""Errors that a user can act on, and the words in them.

An error gives the value, the rule and the remedy in one line.
"""

from __future__ import annotations

import difflib
import reprlib
import textwrap
from collections.abc import Iterable

SHOWN = 200  # an error quotes at most so many characters of a value


class TrainingStopped(RuntimeError):
    """Training cannot go on, and the reason is not a wrong setting: a full disk, bad images, ..."""


class TrainingInterrupted(TrainingStopped):
    """A signal stopped the training after a checkpoint, from which it can be resumed."""

    def __init__(self, message: str, signal: int):
        super().__init__(message)
        self.signal = signal


class Diverged(TrainingStopped):
    """The loss or the gradient is not finite. Other settings are needed."""


class CannotWrite(TrainingStopped, OSError):
    """A file cannot be written. The file that was there before is still there."""


class FailsParity(RuntimeError):
    """An exported file does not compute what the network computes. It is not kept."""


class CannotPush(OSError):
    """A repository on another machine cannot be written: no network, or it refuses."""


# how torch, its libraries and the system say that there is not enough memory
_NO_MEMORY = (
    *("out of memory", "can't allocate memory", "cannot allocate memory", "not enough memory"),
    *("DefaultCPUAllocator", "Storage size calculation overflowed", "STATUS_ALLOC_FAILED"),
    *("integer multiplication overflow", "bad_alloc", "Unable to allocate", "unable to mmap"),
)


def is_out_of_memory(error: BaseException | None) -> bool:
    """Whether an error, or the error that it was raised from, says that memory ran out."""
    while error is not None:
        if isinstance(error, MemoryError):
            return True
        if isinstance(error, (RuntimeError, OSError)):
            words = str(error).lower()
            if any(sign.lower() in words for sign in _NO_MEMORY):
                return True
        error = error.__cause__
    return False


class _Repr(reprlib.Repr):
    """A `repr` that looks at a few items of a few levels, so that a huge value costs nothing."""

    def __init__(self) -> None:
        super().__init__()
        self.maxlevel, self.maxstring, self.maxother = 3, SHOWN - 40, SHOWN - 40
        for kind in ("dict", "list", "tuple", "set", "frozenset", "deque", "array"):
            setattr(self, f"max{kind}", 6)

    def repr_int(self, x: int, level: int) -> str:
        # Python raises an error for a number of thousands of digits
        return repr(x) if x.bit_length() < 256 else f"<an integer of {x.bit_length():,} bits>"


def shown(value: object) -> str:
    """`repr(value)` for an error. Of a long one the beginning and the end are given."""
    return shortened(_Repr().repr(value), SHOWN)


def shortened(text: str, most: int) -> str:
    """The text, without its middle where it has more than `most` characters."""
    if len(text) <= most:
        return text
    kept = most - len(" ... ")
    return f"{text[: kept - kept // 3]} ... {text[-(kept // 3) :]}"


def reason_of(error: BaseException, length: int = 300) -> str:
    """The text of another library's error as a part of a line, cut between words."""
    words = " ".join(str(error).split())
    return textwrap.shorten(words, length, placeholder=" ...") or type(error).__name__


def unknown(kind: str, value: object, known: Iterable[str], remedy: str = "") -> ValueError:
    """The error for a name that is not in a table. It lists the nearest names of the table."""
    names = sorted(known)
    # difflib takes minutes for a name of a million characters
    short = isinstance(value, str) and len(value) <= SHOWN
    near = difflib.get_close_matches(str(value), names, n=4, cutoff=0.5) if short else []
    few = names if len(names) <= 40 else [*names[:12], "..."]
    hint = f"nearest: {', '.join(near)}" if near else f"known: {', '.join(few)}"
    return ValueError(f"unknown {kind} {shown(value)}; {hint}{'; ' + remedy if remedy else ''}")

"""Errors that a user can act on: the value, the rule and the remedy, in one line."""

from __future__ import annotations

import difflib
import reprlib
from collections.abc import Iterable

SHOWN = 200  # characters of a value that an error echoes at most


class TrainingStopped(RuntimeError):
    """Training cannot go on, through no fault of the input's form."""


class TrainingInterrupted(TrainingStopped):
    """A signal ended the training after a checkpoint; it can go on from there."""

    def __init__(self, message: str, signal: int):
        super().__init__(message)
        self.signal = signal


class Diverged(TrainingStopped):
    """The loss or the gradient is not finite: these settings do not train this network."""


class CannotWrite(TrainingStopped, OSError):
    """A file cannot be written; what was there before is still there."""


# how torch, its libraries and the system say that memory is not there
_NO_MEMORY = (
    *("out of memory", "can't allocate memory", "cannot allocate memory", "not enough memory"),
    *("DefaultCPUAllocator", "Storage size calculation overflowed", "STATUS_ALLOC_FAILED"),
    *("integer multiplication overflow", "bad_alloc", "Unable to allocate", "unable to mmap"),
)


def is_out_of_memory(error: BaseException | None) -> bool:
    """Whether an error, or one that it was raised from, says that memory cannot be had."""
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
    """`repr` that looks at a few items of a few levels, whatever the value's size."""

    def __init__(self) -> None:
        super().__init__()
        self.maxlevel, self.maxstring, self.maxother = 3, SHOWN - 40, SHOWN - 40
        for kind in ("dict", "list", "tuple", "set", "frozenset", "deque", "array"):
            setattr(self, f"max{kind}", 6)

    def repr_int(self, x: int, level: int) -> str:
        # Python refuses to print thousands of digits
        return repr(x) if x.bit_length() < 256 else f"<an integer of {x.bit_length():,} bits>"


def shown(value: object) -> str:
    """`repr(value)` for an error: whole where it is short, else its beginning and its end."""
    return shortened(_Repr().repr(value), SHOWN)


def shortened(text: str, most: int) -> str:
    """A text of at most `most` characters: its middle is left out where it is longer."""
    if len(text) <= most:
        return text
    kept = most - len(" ... ")
    return f"{text[: kept - kept // 3]} ... {text[-(kept // 3) :]}"


def unknown(kind: str, value: object, known: Iterable[str], remedy: str = "") -> ValueError:
    """The error for a name that is not in a table, with the nearest names that are."""
    names = sorted(known)
    # difflib takes minutes for a name of a million characters, and nothing is near to one
    short = isinstance(value, str) and len(value) <= SHOWN
    near = difflib.get_close_matches(str(value), names, n=4, cutoff=0.5) if short else []
    few = names if len(names) <= 40 else [*names[:12], "..."]
    hint = f"nearest: {', '.join(near)}" if near else f"known: {', '.join(few)}"
    return ValueError(f"unknown {kind} {shown(value)}; {hint}{'; ' + remedy if remedy else ''}")

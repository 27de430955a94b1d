"""Errors that a user can act on: the value, the rule and the remedy, in one line."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


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


def unknown(kind: str, value: str, known: Iterable[str], remedy: str = "") -> ValueError:
    """The error for a name that is not in a table, with the nearest names that are."""
    names = sorted(known)
    near = difflib.get_close_matches(value, names, n=4, cutoff=0.5)
    few = names if len(names) <= 40 else [*names[:12], "..."]
    hint = f"nearest: {', '.join(near)}" if near else f"known: {', '.join(few)}"
    return ValueError(f"unknown {kind} {value!r}; {hint}{'; ' + remedy if remedy else ''}")

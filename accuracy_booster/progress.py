"""Progress on a terminal (stderr, so that a result on stdout stays clean), silent elsewhere."""

from __future__ import annotations

import os
import time
from collections.abc import Iterable, Sequence
from typing import TypeVar

T = TypeVar("T")


def console():
    """The one console for everything that is not a result: stderr."""
    from rich.console import Console

    return Console(stderr=True, highlight=False, soft_wrap=True)


def note(text: str) -> None:
    """One line for the user that is no result and no warning; of several processes one tells it."""
    if os.environ.get("RANK", "0") == "0":
        console().print(text, markup=False)


def bars():
    """A rich progress display with count, a note and the remaining time; none off a terminal."""
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn
    from rich.progress import TimeRemainingColumn as Remaining

    where = console()
    return Progress(
        TextColumn("{task.description}", style="progress.description", markup=False),
        *(BarColumn(bar_width=24), MofNCompleteColumn(), Remaining(elapsed_when_finished=True)),
        TextColumn("{task.fields[note]}"),
        console=where,
        transient=True,
        disable=not where.is_terminal,
    )


def track(items: Sequence[T], description: str, after: float = 1.0) -> Iterable[T]:
    """Iterate with a progress bar that appears once it has taken `after` seconds."""
    start, shown = time.monotonic(), None
    try:
        for done, item in enumerate(items):
            if shown is None and time.monotonic() - start > after:
                shown = bars()
                shown.start()
                task = shown.add_task(description, total=len(items), note="")
            if shown is not None and done % 64 == 0:
                shown.update(task, completed=done)
            yield item
    finally:
        if shown is not None:
            shown.stop()

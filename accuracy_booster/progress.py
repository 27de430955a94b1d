"""Progress on a terminal (stderr, so that a result on stdout stays clean), silent elsewhere.

Names of files, classes and networks come from outside. `printable` is what keeps them from moving
the cursor, changing colours or turning the direction of the text on the user's terminal.
"""

from __future__ import annotations

import os
import time
import unicodedata
from collections.abc import Iterable, Sequence
from typing import Any, TypeVar

T = TypeVar("T")

# controls (C0, DEL, C1), formats (bidi overrides), surrogates, separators of lines and paragraphs
_UNSEEN = ("Cc", "Cf", "Cs", "Zl", "Zp")
_JOINERS = "\u200c\u200d"  # Persian and Indic words need them, and emoji


def printable(text: object, keep: str = "") -> str:
    """A text whose control characters are escaped as Python writes them: \\x1b, \\u202e.

    Characters in `keep` (such as newlines) stay. A lone surrogate, which stands for a byte of a
    file name that is no UTF-8, is escaped too, so the result can always be encoded.
    """
    text = str(text)
    if text.isascii() and text.isprintable():
        return text
    return "".join(
        c.encode("unicode_escape").decode()
        if unicodedata.category(c) in _UNSEEN and c not in _JOINERS and c not in keep
        else c
        for c in text
    )


def console(*, stderr: bool = True, soft_wrap: bool = True):
    """The one console: on stderr what is not a result, on stdout tables.

    Texts are printed as they are, without rich's markup and emoji, and printable.
    """
    from rich.console import Console

    class Plain(Console):
        def render_str(self, text: str, **more: Any):  # type: ignore[override]
            return super().render_str(printable(text), **more)

    return Plain(stderr=stderr, highlight=False, markup=False, emoji=False, soft_wrap=soft_wrap)


def note(text: str) -> None:
    """One line for the user that is no result and no warning; of several processes one tells it."""
    if os.environ.get("RANK", "0") == "0":
        console().print(text)


def bars():
    """A rich progress display with count, a note and the remaining time; none off a terminal."""
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn
    from rich.progress import TimeRemainingColumn as Remaining
    from rich.text import Text

    class Words(TextColumn):
        """A text as it is, without markup."""

        def render(self, task: Any) -> Text:
            return Text(printable(self.text_format.format(task=task)), justify=self.justify)

    where = console()
    return Progress(
        Words("{task.description}"),
        *(BarColumn(bar_width=24), MofNCompleteColumn(), Remaining(elapsed_when_finished=True)),
        Words("{task.fields[note]}"),
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

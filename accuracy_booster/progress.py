"""Progress bars, notes and safe text on the terminal.

All go to stderr, so that stdout holds results alone. Bars are shown on a terminal only. Names of
files, classes and networks come from outside: `printable` escapes what would move the cursor,
change colours or turn the direction of the text.
"""

from __future__ import annotations

import contextlib
import errno
import os
import time
import unicodedata
from collections.abc import Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, Any, TypeVar

if TYPE_CHECKING:
    from rich.console import Console
    from rich.progress import Progress

T = TypeVar("T")

# controls (C0, DEL, C1), formats (bidi overrides), surrogates, separators of lines and paragraphs
_UNSEEN = ("Cc", "Cf", "Cs", "Zl", "Zp")
_JOINERS = "\u200c\u200d"  # words in Persian and Indic scripts need them; they are kept


def printable(text: object, keep: str = "") -> str:
    """The text with its control characters escaped as Python writes them: \\x1b, \\u202e.

    Characters in `keep` (such as newlines) are not escaped. A lone surrogate stands for a byte of
    a file name that is not UTF-8; it is escaped too, so that the result can be encoded.
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


def console(*, stderr: bool = True, soft_wrap: bool = True) -> Console:
    """A rich console on stderr, or on stdout for tables.

    It prints texts as they are: without rich's markup and emoji, control characters escaped.
    """
    from rich.console import Console

    class Plain(Console):
        def on_broken_pipe(self) -> None:
            """Raise the error; rich would end the process with the exit code 1."""
            raise BrokenPipeError(errno.EPIPE, "the reader of the output has gone")

        def render_str(self, text: str, **more: Any) -> Any:  # type: ignore[override]
            return super().render_str(printable(text), **more)

    return Plain(stderr=stderr, highlight=False, markup=False, emoji=False, soft_wrap=soft_wrap)


def note(text: str) -> None:
    """Print one line that is neither a result nor a warning. Of torchrun's processes one prints."""
    if os.environ.get("RANK", "0") == "0":
        console().print(text)


@contextlib.contextmanager
def silent_stderr() -> Iterator[None]:
    """Silence C++ code that writes to descriptor 2, as torch's profilers do at start and end."""
    try:
        stderr = os.dup(2)
    except OSError:  # there is none
        yield
        return
    nowhere = os.open(os.devnull, os.O_WRONLY)
    try:
        os.dup2(nowhere, 2)
        yield
    finally:
        os.dup2(stderr, 2)
        os.close(stderr)
        os.close(nowhere)


def bars() -> Progress:
    """Progress bars: count, remaining time, a note. Off a terminal nothing is shown."""
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn
    from rich.progress import TimeRemainingColumn as Remaining
    from rich.text import Text

    class Words(TextColumn):
        """A column of text without markup."""

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
    """Iterate over the items. A progress bar appears after `after` seconds."""
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

"""What commands print on stdout: lines, tables, JSON; and the files that their options name."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from accuracy_booster.progress import console, printable
from accuracy_booster.tables import Table


@contextmanager
def escaping_stdout() -> Iterator[None]:
    """Within it, stdout escapes characters that its encoding lacks, such as ± in ASCII."""
    stream: Any = sys.stdout
    before = getattr(stream, "errors", None)
    if before is None or not hasattr(stream, "reconfigure"):
        yield
        return
    stream.reconfigure(errors="backslashreplace")
    try:
        yield
    finally:
        if not stream.closed:
            stream.reconfigure(errors=before)


def say(*lines: object) -> None:
    """Print results on stdout, each value on one line, with its control characters escaped."""
    for line in lines:
        print(printable(line))


def say_json(value: Any) -> None:
    """Print a result as one line of JSON in ASCII, which no terminal misreads."""
    # json escapes all control characters but DEL
    print(json.dumps(value).replace("\x7f", "\\u007f"))


def print_table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """Print a table on stdout, as wide as the terminal, or 160 characters in a file."""
    where = console(stderr=False, soft_wrap=False)
    if not where.is_terminal:
        where.width = 160
    where.print(Table(header, rows).rich())


def print_tables(tables: Iterable[tuple[str, Sequence[str], Sequence[Sequence[str]]]]) -> None:
    """Print each table under its title."""
    for title, header, rows in tables:
        say(title)
        print_table(header, rows)


def output_file(given: str | None, example: str) -> Path | None:
    """The file that an option names, or None where it names none.

    Args:
        example: a file name, for the error.

    Raises:
        ValueError: if it is a directory.
    """
    if given and Path(given).is_dir():
        raise ValueError(f"{given} is a directory; name a file, such as {example}")
    return Path(given) if given else None

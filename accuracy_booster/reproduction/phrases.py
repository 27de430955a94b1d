"""Small pieces of text that messages and the report share: counts, ranges of seeds, names."""

from __future__ import annotations

from collections.abc import Iterable

from accuracy_booster.progress import printable


def count(number: int, word: str) -> str:
    """A number with its word: "1 seed", "1,200 seeds"."""
    return f"{number:,} {word}{'s'[: number != 1]}"


def ranges(numbers: Iterable[int]) -> str:
    """Whole numbers with neighbours joined: "0-2, 4" for 0, 1, 2, 4."""
    found: list[list[int]] = []
    for number in sorted(numbers):
        if found and number == found[-1][-1] + 1:
            found[-1][1:] = [number]
        else:
            found.append([number])
    return ", ".join("-".join(map(str, ends)) for ends in found)


def of_declared(number: int, declared: int) -> str:
    """How many of the declared seeds there are: "3 of 5", or "7 (declared: 5)"."""
    return f"{number} of {declared}" if number <= declared else f"{number} (declared: {declared})"


def one_line(text: object) -> str:
    """A text from a file, on one line and without backticks, which mark names in the report."""
    return printable(" ".join(str(text).split())).replace("`", "'")


def name_list(names: Iterable[str]) -> str:
    """Names of files or runs, sorted, each in backticks."""
    return ", ".join(f"`{one_line(name)}`" for name in sorted(names))


def duration(hours: float) -> str:
    """ "3.2 h", "1,240 h", or minutes below 0.1 h."""
    if hours < 0.1:
        return f"{60 * hours:.0f} min"
    return f"{hours:.1f} h" if hours < 100 else f"{hours:,.0f} h"

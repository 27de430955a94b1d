"""The text of the paper, where it is at hand."""

from __future__ import annotations

import re
from pathlib import Path


def paper_text(shared: Path) -> str:
    return (shared / "paper" / "accuracy_booster.md").read_text()


def numbers_of(shared: Path, table: int) -> list[list[str]]:
    """The cells of a table of the paper, row by row, without its header."""
    text = paper_text(shared)
    part = text[text.index(f"\nTable {table}. ") :]
    lines = part.split("\n\n")[1].splitlines()[1:]
    return [re.sub(r"</?b>|\*\*", "", line).split("\t") for line in lines]

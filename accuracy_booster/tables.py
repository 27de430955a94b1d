"""The one table of texts: as lines, for rich's console, in Markdown and for the HTML reports.

It needs no torch, so commands can print tables without waiting for it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from rich.table import Table as RichTable


class Table(NamedTuple):
    """A header, and rows with as many cells. It is a tuple: `header, rows = table` works."""

    header: Sequence[str]
    rows: Sequence[Sequence[str]]

    def lines(self) -> list[str]:
        """Lines of text, with each column as wide as its widest cell."""
        widths = [max(map(len, column)) for column in zip(self.header, *self.rows, strict=True)]
        return [
            "  ".join(f"{cell:<{width}}" for cell, width in zip(row, widths, strict=True)).rstrip()
            for row in (self.header, *self.rows)
        ]

    def rich(self) -> RichTable:
        """A table that rich's console prints, with long cells wrapped to the terminal's width."""
        from rich import box
        from rich.table import Table as RichTable

        table = RichTable(*self.header, box=box.SIMPLE_HEAD, pad_edge=False, collapse_padding=True)
        for row in self.rows:
            table.add_row(*row)
        return table

    def markdown(self, escaped: Callable[[str], str] = str) -> str:
        """A Markdown table. `escaped` escapes a cell's text; bars are escaped here."""
        lines = [self.header, ["---"] * len(self.header), *self.rows]
        cells = [[escaped(cell).replace("|", "\\|") for cell in line] for line in lines]
        return "\n".join(f"| {' | '.join(line)} |" for line in cells)


def is_number(cell: str) -> bool:
    """Whether a cell is a number such as "1,024", "+0.3 %" or "75.1 ± 0.2".

    HTML tables align a column to the right if its first cell is one.
    """
    return cell.translate(dict.fromkeys(map(ord, ",.±+\N{MINUS SIGN}% "))).isdigit()

"""The table of the terminal, of Markdown and of the reports."""

import io

import pytest
from rich.console import Console

from accuracy_booster.tables import Table, is_number

TABLE = Table(["block", "top-1 %"], [["none", "75.1"], ["se|ab", "7.2"]])


def test_lines_are_as_wide_as_the_widest_cell():
    assert TABLE.lines() == ["block  top-1 %", "none   75.1", "se|ab  7.2"]


def test_rows_of_another_length_are_an_error():
    with pytest.raises(ValueError):
        Table(["a", "b"], [["1"]]).lines()


def test_rich_prints_every_cell_in_its_column():
    out = io.StringIO()
    Console(file=out, width=60).print(TABLE.rich())
    header, _, *rows = [line for line in out.getvalue().splitlines() if line.strip()]
    assert header.split() == ["block", "top-1", "%"]
    assert [row.split() for row in rows] == [["none", "75.1"], ["se|ab", "7.2"]]


def test_columns_stand_two_characters_apart():
    out = io.StringIO()
    Console(file=out, width=60).print(TABLE.rich())
    assert " none   75.1" in out.getvalue()


def test_markdown_escapes_bars():
    assert TABLE.markdown(str.upper).splitlines() == [
        "| BLOCK | TOP-1 % |",
        "| --- | --- |",
        "| NONE | 75.1 |",
        "| SE\\|AB | 7.2 |",
    ]


@pytest.mark.parametrize("cell", ["1,024", "+0.3 %", "75.1 ± 0.2", "\N{MINUS SIGN}3"])
def test_a_number(cell):
    assert is_number(cell)


@pytest.mark.parametrize("cell", ["", "none", "3.2 G", "-", "1.0 to 2.0"])
def test_no_number(cell):
    assert not is_number(cell)

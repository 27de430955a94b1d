"""What reaches the terminal: control characters are escaped."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from support.hostile import (
    EVIL,
    MARKUP,
    NOT_UTF8,
)

from accuracy_booster import progress
from accuracy_booster.progress import printable


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("\x1b[0m", r"\x1b[0m"),
        ("\x9b\x7f\r\t\0", r"\x9b\x7f\r\t\x00"),
        ("\u202e\u2066\u200e\u061c\ufeff\u2028", r"\u202e\u2066\u200e\u061c\ufeff\u2028"),
        ("\U000e0041", r"\U000e0041"),
        ("\udcff", r"\udcff"),
        ("line\nline", r"line\nline"),
        ("Käse 日本 ± \\x 😀 क\u200c्", "Käse 日本 ± \\x 😀 क\u200c्"),
        (MARKUP, MARKUP),
        (Path("/a b/c"), "/a b/c"),
    ],
)
def test_printable(text, expected):
    assert printable(text) == expected
    printable(text).encode()


def test_printable_keeps_what_it_is_told_to():
    assert printable("a\nb\x1b", keep="\n") == "a\nb\\x1b"


@pytest.mark.parametrize("name", [EVIL, MARKUP, NOT_UTF8], ids=["controls", "markup", "bytes"])
def test_the_progress_columns(name, monkeypatch, capsys):
    monkeypatch.setenv("FORCE_COLOR", "1")  # rich's word for "take it for a terminal"
    monkeypatch.setenv("COLUMNS", "400")
    with progress.bars() as shown_bars:
        shown_bars.add_task(f"task {name}", total=3, note=f"{name} end")
        shown_bars.refresh()
    err = re.sub(r"\x1b\[[\d;?]*[A-Za-z]", "", capsys.readouterr().err)  # the bars' own
    assert f"task {printable(name)}" in err
    assert f"{printable(name)} end" in err
    assert all(c.isprintable() or c in "\n\r" for c in err)


def test_a_table_for_a_reader_that_has_gone_is_a_broken_pipe():
    """The command then ends with the code of SIGPIPE. Rich itself would end the process with 1."""
    with pytest.raises(BrokenPipeError):
        progress.console(stderr=False).on_broken_pipe()

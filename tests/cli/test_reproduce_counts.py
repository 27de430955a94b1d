"""The command `reproduce counts`."""

from __future__ import annotations

import json

import pytest
from support.commands import assert_refused, run
from support.counts import DIFFERENT, TRUNCATED

from accuracy_booster.reproduction import counts


@pytest.mark.parametrize("tables", ["4", "3,4"])
def test_reproduce_as_json(tables, capsys):
    code, out, err = run(capsys, "reproduce", "counts", "--tables", tables, "--json")
    assert code == 0, err
    assert json.loads(out) == counts([int(n) for n in tables.split(",")]).to_dict()


def test_reproduce_shows_tables_and_writes_a_page(capsys, tmp_path):
    page = tmp_path / "page.html"
    words = ("reproduce", "counts", "--tables", "2,4,8", "--output", page)
    code, out, err = run(capsys, *words)
    assert code == 0, err
    found, html = counts([2, 4, 8]), page.read_text(encoding="utf-8")
    assert str(page) in out
    for text in (out, html):
        assert found.summary_text() in " ".join(text.split())
        assert "Table 4: WRN-18-2, ImageNet" in text
        for check in found.checks:
            assert check.ours in text
        assert text.count(TRUNCATED) >= 3
        assert DIFFERENT in text
    assert "<script" not in html
    assert "http:" not in html.replace("http://www.w3.org", "")
    assert "https:" not in html


@pytest.mark.parametrize(
    ("words", "parts"),
    [
        (["reproduce", "nothing"], ["unknown reproduce command 'nothing'", "reproduce --help"]),
        (["reproduce", "counts", "--tables", "9"], ["table 9 prints no counts"]),
        (["reproduce", "counts", "--tables", "x"], ["--tables", "x"]),
        (["reproduce", "counts", "--table", "4"], ["'--table'", "nearest: --tables"]),
    ],
)
def test_bad_input_is_one_line_and_exit_code_2(words, parts, capsys):
    assert_refused(capsys, words, parts)

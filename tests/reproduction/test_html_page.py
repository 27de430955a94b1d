"""The report as an HTML page."""

from __future__ import annotations

import re

from support.results import put_small

from accuracy_booster.reproduction import read_records
from accuracy_booster.reproduction.report import write_report


def test_the_page_has_tables_and_a_picture_of_each_table_with_a_pair(tmp_path):
    put_small(tmp_path / "results")
    write_report(read_records(tmp_path / "results"), tmp_path / "a.md", html=tmp_path / "a.html")
    html = (tmp_path / "a.html").read_text()
    assert html.count("<svg") == 4  # of factors there is one row alone
    assert "+1.7, inside" in html
    assert "<script" not in html
    assert "`" not in re.sub(r"<svg.*?</svg>|<style.*?</style>", "", html, flags=re.DOTALL)
    assert "2026-01-02T03:04:05Z</footer>" in html

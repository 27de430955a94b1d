"""The report as Markdown."""

from __future__ import annotations

from dataclasses import replace

from support.results import put

from accuracy_booster.reproduction import TABLES, read_records
from accuracy_booster.reproduction.report import write_report


def test_a_bar_in_a_label_does_not_end_its_cell(tmp_path, monkeypatch):
    first, *others = TABLES["small"].rows
    rows = (replace(first, label="none | *none*"), *others)
    monkeypatch.setitem(TABLES, "small", replace(TABLES["small"], rows=rows))
    put(tmp_path, TABLES["small"], "none | *none*", 0, 60.0)
    write_report(read_records(tmp_path), tmp_path / "page.md")
    assert "| none \\| \\*none\\* | 71.4 |" in (tmp_path / "page.md").read_text()

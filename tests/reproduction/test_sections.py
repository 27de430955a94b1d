"""The head of the report, what it leaves out, and what was not run."""

from __future__ import annotations

from dataclasses import replace

from support.results import ABOUT, NOT_RUN, cells, put, put_small, table

from accuracy_booster.reproduction import TABLES, read_records
from accuracy_booster.reproduction.report import write_report
from accuracy_booster.reproduction.specs import CODE_VERSION


def test_the_report_says_what_was_not_run(tmp_path):
    put_small(tmp_path / "results")
    report = write_report(read_records(tmp_path / "results"), tmp_path / "page.md")
    rows = cells((tmp_path / "page.md").read_text(), "Not run")[1:]
    found = {(line[0], line[1]): line[2:] for line in rows}
    assert ("Small", "short") not in found
    assert found["Small", "paper"][0] == "all rows, 20 of 20 runs"
    # 20 runs of 200 epochs, where 10 take 0.1 h
    assert "a GPU; about 40.0 h left" in found["Small", "paper"][1]
    assert found["Redundancy", "short"][0].startswith("3 rows (F: AB without its weight;")
    assert "imagenet" in found["Table 2", "paper"][1]
    needs = "the data set coco; the data set imagenet; a GPU; "
    assert found["Table 9", "paper"][1].startswith(needs)
    not_run = report.to_dict()["verdicts"][NOT_RUN]
    words = report.summary()
    assert words.startswith("20 results: 2 confirmed, 3 contradicted, ")
    assert f"{not_run} not run" in words
    assert "\n" not in words


def test_smoke_has_no_part_in_the_report(tmp_path):
    put_small(tmp_path, budget="smoke")
    report = write_report(read_records(tmp_path), tmp_path / "page.md")
    text = (tmp_path / "page.md").read_text()
    assert "Nothing was run" in text
    assert "20 results of the budget smoke" in text
    assert "In short" not in text
    assert report.to_dict()["smoke"] == 20
    assert report.summary().startswith("0 results: ")


def test_files_that_are_no_results_are_named_and_counted(tmp_path):
    results, small = tmp_path / "results", TABLES["small"]
    put_small(results)
    old = {**ABOUT, "code": {"version": CODE_VERSION - 1}}
    older = [put(results, small, label, 1, 1.0, about=old) for label in ("SE", "AB")]
    (results / "cut<b>|off.json").write_text('{"a')
    other = put(results, small, "no block", 3, 1.0, data={"train": {"images": 1}})
    renamed = put(results, small, "no block", 4, 1.0)
    (results / f"{renamed}.json").rename(results / "renamed.json")
    report = write_report(read_records(results), tmp_path / "page.md", html=tmp_path / "page.html")
    text = (tmp_path / "page.md").read_text()
    (line,) = [line for line in text.splitlines() if f"version {CODE_VERSION - 1} of" in line]
    assert line.startswith("- Left out: 2 files, ")
    assert all(f"`{name}.json`" in line for name in older)
    assert "- Left out: 1 file, `cut<b>|off.json`: it is damaged" in text
    assert "`renamed.json`: it holds the result of" in text
    assert f"- Left out: 1 result of other images than the data set has: `{other}`" in text
    files = {f"{older[0]}.json", f"{older[1]}.json", "cut<b>|off.json", "renamed.json"}
    assert set(report.left_out) == {other, *files}
    assert report.summary().endswith("5 files left out")
    assert len(report.findings.used) == 16
    assert "cut<b>" not in (tmp_path / "page.html").read_text()


def test_a_result_that_no_table_asks_for_is_named(tmp_path):
    own = replace(table(), name="gone")
    name = put(tmp_path, own, "ab", 0, 50.0)
    report = write_report(read_records(tmp_path), tmp_path / "page.md")
    assert report.left_out == (name,)
    assert f"that no table asks for: `{name}`" in (tmp_path / "page.md").read_text()

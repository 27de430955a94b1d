"""The section of the report on one table."""

from __future__ import annotations

import numpy as np
from support.detector_runs import TABLE_9
from support.results import SMALL, TOO_SMALL, WIDE, cells, interval_of, needed, put, put_small

from accuracy_booster.reproduction import TABLES
from accuracy_booster.reproduction.findings import compare
from accuracy_booster.reproduction.record import Record
from accuracy_booster.reproduction.report import write_report
from accuracy_booster.reproduction.result_files import read_records, write_record
from accuracy_booster.reproduction.specs import CODE_VERSION, spec_of
from accuracy_booster.reproduction.table import AP, AP50
from accuracy_booster.reproduction.verdicts import CONFIRMED, rule


def test_the_report_holds_the_numbers(tmp_path):
    put_small(tmp_path / "results")
    report = write_report(read_records(tmp_path / "results"), tmp_path / "docs" / "page.md")
    text = (tmp_path / "docs" / "page.md").read_text()
    header, *rows = cells(text, "Small, budget short")
    assert header[:4] == ["row", "paper, %", "ours, % (mean ± sd)", "seeds"]
    row = {line[0]: line for line in rows}
    for label, values in SMALL.items():
        mean, spread = np.mean(values), np.std(values, ddof=1)
        assert row[label][2:4] == [f"{mean:.2f} ± {spread:.2f}", "5 of 5"]
    gains = np.array(SMALL["AB"]) - np.array(SMALL["no block"])
    low, high = interval_of(gains)
    assert low < 1.7 < high
    gain = f"{gains.mean():+.2f} [{low:+.2f}, {high:+.2f}]"
    assert row["AB"][4:7] == [gain, "+1.7, inside", CONFIRMED]
    assert row["no block"][4:] == [""] * 6
    short = {line[1]: line for line in cells(text, "In short")[1:]}
    assert short["AB minus no block"][2:] == [gain, "5", "+1.7, inside", CONFIRMED]
    assert short["AB minus no block"][0] == (
        "Small, short; Redundancy, short; Constants, short; Designs, short"
    )
    assert f"{compare(read_records(tmp_path / 'results')).intervals} intervals of 95 %" in text
    assert rule().strip() in text
    assert "another network, ResNet-56" in text
    assert f"`{report.findings.tables[0].rows[2].run}`, seeds 0-4" in text
    assert "20, with 2.0 h of compute" in text
    for named in ("a processor", "0.3.0 (commit 0123456789ab)", "torch 2.9.0"):
        assert named in text


def test_the_report_says_so_far_diverged_and_how_many_pairs(tmp_path):
    small = TABLES["small"]
    for seed in range(3):
        put(tmp_path, small, "no block", seed, 60.0 + seed)
        put(tmp_path, small, "AB", seed, 61.0 + 1.5 * seed)
    put(tmp_path, small, "AB", 3, None)
    put(tmp_path, small, "no block", 3, 60.0)
    put(tmp_path, small, "AB", 4, 60.0)
    write_report(read_records(tmp_path), tmp_path / "page.md")
    text = (tmp_path / "page.md").read_text()
    (row,) = [line for line in cells(text, "Small, budget short") if line[0] == "AB"]
    assert row[3] == "4 of 5, 1 diverged"
    assert row[4].endswith("(3 pairs)")
    assert row[6] == f"{CONFIRMED} so far; 1 pair left out: diverged"
    assert "seeds 0-4; seed 3 diverged: the loss is not finite" in text


def test_the_report_says_how_many_seeds_would_tell(tmp_path):
    small = TABLES["small"]
    for seed, difference in enumerate(WIDE):
        put(tmp_path, small, "no block", seed, 60.0 + seed)
        put(tmp_path, small, "SE", seed, 60.0 + seed + difference)
    write_report(read_records(tmp_path), tmp_path / "page.md")
    (row,) = [
        line
        for line in cells((tmp_path / "page.md").read_text(), "Small, budget short")
        if line[0] == "SE"
    ]
    number = needed(1.3, float(np.std(WIDE, ddof=1)))
    assert row[6] == f"{TOO_SMALL} ({number} seeds would tell)"


def test_the_report_sets_our_numbers_beside_the_papers(tmp_path):
    code = {"version": CODE_VERSION}
    for row in TABLE_9.rows[::2]:
        for seed in range(5):
            spec = spec_of(TABLE_9, row, "paper", seed)
            shift = {"none": 0.0, "se": 1.2, "ab": 1.6}[row.block] + 0.01 * seed * len(row.block)
            values = {AP50: 45.0 + shift + 0.1 * seed, AP: 25.0 + shift + 0.1 * seed}
            epochs = [{"test_ap": values[AP]}] * spec.config.epochs
            write_record(tmp_path / "r", Record(spec, values, epochs, 60.0, about={"code": code}))
    report = write_report(read_records(tmp_path / "r"), tmp_path / "page.md")
    text = (tmp_path / "page.md").read_text()
    assert not report.left_out
    lines = [line.strip("| ").split(" | ") for line in text.splitlines() if "AB, AP |" in line]
    ours, paper, verdict = lines[0][2], lines[0][5], lines[0][6]
    assert lines[0][:2] == ["AB, AP", "26.7"]
    assert ours.startswith("26.84")
    assert paper.startswith("+1.6")
    assert verdict == CONFIRMED
    assert "each detector starts from the network of Table 2 with the same block" in text
    assert "18 epochs, batches of 16" in text
    assert "1,000 steps of warm-up" in text
    assert "points of AP and AP50" in (tmp_path / "gain.svg").read_text()

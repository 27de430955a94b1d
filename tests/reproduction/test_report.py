"""From result files to differences, verdicts and the report.

The results are made up. What is expected of them comes from scipy and numpy, worked out here.
"""

from __future__ import annotations

import json
import re
import xml.etree.ElementTree as ElementTree
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from scipy.stats import nct, t, ttest_1samp

from accuracy_booster.reproduction import TABLES, Record, Row, Table, figures, read_records
from accuracy_booster.reproduction.comparing import Pair, TableResult, compare_table
from accuracy_booster.reproduction.findings import compare
from accuracy_booster.reproduction.result_files import Records, write_record
from accuracy_booster.reproduction.readme import BEGIN, END
from accuracy_booster.reproduction.report import write_report
from accuracy_booster.reproduction.specs import CODE_VERSION, spec_of
from accuracy_booster.reproduction.verdicts import Difference, judge, rule

CONFIRMED, CONTRADICTED, TOO_SMALL = "confirmed", "contradicted", "too small to tell"
MORE, LESS, NOT_RUN = "more accurate", "less accurate", "not run"
DATA = {"train": {"images": 50_000, "labels": "0a"}, "test": {"images": 10_000, "labels": "0b"}}
ABOUT = {
    "code": {"version": CODE_VERSION, "package": "0.3.0", "commit": "0123456789ab"},
    "packages": {"torch": "2.9.0"},
    "processor": "a processor",
    "ended": "2026-01-02T03:04:05Z",
}
# accuracies by seed that the tests of the report use
SMALL = {
    "no block": [66.0, 66.4, 65.7, 66.1, 66.3],
    "SE": [66.2, 66.1, 66.5, 66.4, 66.2],
    "AB": [67.6, 67.9, 67.1, 67.9, 68.1],
    "AB-Plus": [66.1, 66.2, 65.9, 66.2, 66.1],
}


def table(printed: Sequence[float | None] = (71.4, 73.1), *, seeds: int = 5) -> Table:
    rows = [Row(b, "resnet8", b, p) for b, p in zip(("none", "ab"), printed, strict=True)]
    return Table("t", "two rows", "cifar10", tuple(rows), seeds=seeds)


def put(
    folder: Path,
    of: Table,
    label: str,
    seed: int,
    top1: float | None,
    *,
    budget: str = "short",
    model: str | None = None,
    about: Mapping[str, object] = ABOUT,
    data: object = DATA,
) -> str:
    """Write a result, diverged without an accuracy; returns its name."""
    row = next(r for r in of.rows if r.label == label and model in (None, r.model))
    spec = spec_of(of, row, budget, seed)
    values = {} if top1 is None else {"top1": top1, "top5": max(90.0, top1)}
    diverged = "the loss is not finite" if top1 is None else ""
    epochs = [{"epoch": i + 1.0, "test_top1": top1 or 0.0} for i in range(spec.config.epochs)]
    write_record(folder, Record(spec, values, epochs, 360.0, diverged, data, about))
    return spec.name


def put_pairs(folder: Path, of: Table, differences: Sequence[float], base: float = 60.0) -> None:
    for seed, difference in enumerate(differences):
        put(folder, of, "none", seed, base + seed)
        put(folder, of, "ab", seed, base + seed + difference)


def put_small(folder: Path, budget: str = "short") -> None:
    for label, values in SMALL.items():
        for seed, value in enumerate(values):
            put(folder, TABLES["small"], label, seed, value, budget=budget)


def the_pair(folder: Path, of: Table) -> Pair:
    (pair,) = compare_table(of, "short", read_records(folder)).pairs
    return pair


def interval_of(values: Sequence[float]) -> tuple[float, float]:
    found = ttest_1samp(values, 0).confidence_interval(0.95)
    return found.low, found.high


# --- verdicts

CLEAR = [1.0, 1.3, 1.5, 0.9, 1.2]
NEAR_ZERO = [0.3, -0.2, 0.1, -0.1, 0.05]
WIDE = [2.1, -1.4, 1.2, 0.6, -0.7]


@pytest.mark.parametrize(
    ("differences", "printed", "word", "holds"),
    [
        (CLEAR, 1.3, CONFIRMED, True),
        (CLEAR, 2.3, CONFIRMED, False),
        ([-d for d in CLEAR], -0.4, CONFIRMED, False),
        (CLEAR, -0.4, CONTRADICTED, False),  # the other side of zero
        ([-d for d in CLEAR], 1.3, CONTRADICTED, False),
        (NEAR_ZERO, 1.7, CONTRADICTED, False),  # no gain of that size
        (WIDE, 1.7, TOO_SMALL, True),
        (WIDE, -1.0, TOO_SMALL, True),
        ([1.2], 1.7, TOO_SMALL, None),
        (CLEAR, None, MORE, None),
        ([-d for d in CLEAR], None, LESS, None),
        (WIDE, None, TOO_SMALL, None),
        ([0.8], None, TOO_SMALL, None),
        ([], 1.7, NOT_RUN, None),
    ],
)
def test_verdicts(tmp_path, differences, printed, word, holds):
    of = table((71.0, None if printed is None else round(71.0 + printed, 1)))
    put_pairs(tmp_path, of, differences)
    pair = the_pair(tmp_path, of)
    assert (pair.printed, pair.verdict.word) == (printed, word)
    assert pair.verdict.so_far == (0 < len(differences) < of.seeds)
    if not differences:
        assert pair.difference is None
        return
    assert list(pair.difference.by_seed.values()) == pytest.approx(differences)
    assert pair.difference.mean == pytest.approx(np.mean(differences))
    if len(differences) == 1:
        assert pair.difference.interval is None
        assert pair.verdict.seeds_to_tell is None
        return
    low, high = interval_of(differences)
    assert pair.difference.interval == pytest.approx((low, high))
    if printed is not None:
        assert holds == (low <= printed <= high)
    assert pair.verdict.holds_printed == holds
    assert (pair.verdict.seeds_to_tell is not None) == (word == TOO_SMALL)
    if word == TOO_SMALL:
        wanted = needed(0.3 if printed is None else printed, float(np.std(differences, ddof=1)))
        assert pair.verdict.seeds_to_tell == wanted


def needed(difference: float, spread: float) -> int:
    """The smallest number of seeds whose test has a power of 80 %, by the noncentral t."""
    for n in range(3, 2000):
        limit, shift = t.ppf(0.975, n - 1), abs(difference) * n**0.5 / spread
        if nct.sf(limit, n - 1, shift) + nct.cdf(-limit, n - 1, shift) >= 0.8:
            return n
    raise AssertionError


@pytest.mark.parametrize("spread", [0.2, 0.5, 1.0, 2.0])
@pytest.mark.parametrize("difference", [0.3, -0.5, 1.7])
def test_the_number_of_seeds_that_would_tell(spread, difference):
    values = spread * np.array([1.0, -1.0]) / 2**0.5  # their sample standard deviation is spread
    found = Difference(dict(enumerate(values))).seeds_to_tell(difference)
    assert found == needed(difference, spread)


def test_more_seeds_than_1000_are_not_told_as_a_number():
    assert Difference({0: 10.0, 1: -10.0}).seeds_to_tell(0.1) is None


def test_an_interval_that_ends_at_zero_holds_it(monkeypatch):
    monkeypatch.setattr(Difference, "interval", (0.0, 2.0))
    assert judge(Difference({0: 0.0, 1: 2.0}), None, 2).word == TOO_SMALL
    assert judge(Difference({0: 0.0, 1: 2.0}), 2.0, 2).word == TOO_SMALL  # it holds d at its end
    assert judge(Difference({0: 0.0, 1: 2.0}), 2.1, 2).word == CONTRADICTED


# --- which results count


def test_rows_have_mean_and_sample_deviation(tmp_path):
    of = table()
    put_pairs(tmp_path, of, CLEAR)
    none, ab = compare_table(of, "short", read_records(tmp_path)).rows
    values = [60 + seed + d for seed, d in enumerate(CLEAR)]
    assert ab.mean == pytest.approx(np.mean(values))
    assert ab.spread == pytest.approx(np.std(values, ddof=1))
    assert ab.hours == pytest.approx(0.5)
    assert {f"{none.run}-s{n}" for n in none.seeds} | {f"{ab.run}-s{n}" for n in ab.seeds} == {
        path.stem for path in tmp_path.glob("*.json")
    }


@pytest.mark.parametrize(
    ("row", "reference", "expected"),
    [(73.1, 71.4, 1.7), (71.36, 71.4, -0.04), (77.6, 75.44, 2.16), (73.0, 72.0, 1.0)],
)
def test_printed_differences_keep_the_printed_digits(tmp_path, row, reference, expected):
    assert the_pair(tmp_path, table((reference, row))).printed == expected


def test_a_row_is_compared_with_the_references_before_it():
    result = compare_table(TABLES["small"], "short", Records({}, {}))
    assert {(pair.row.label, pair.reference.label, pair.printed) for pair in result.pairs} == {
        ("SE", "no block", 1.3),
        ("AB", "no block", 1.7),
        ("AB", "SE", 0.4),
        ("AB-Plus", "no block", 2.3),
        ("AB-Plus", "SE", 1.0),
    }


def test_a_seed_counts_where_both_runs_have_ended(tmp_path):
    of = table()
    put_pairs(tmp_path, of, CLEAR[:3])
    put(tmp_path, of, "ab", 3, 99.0)
    put(tmp_path, of, "none", 4, 1.0)
    pair = the_pair(tmp_path, of)
    assert pair.difference.seeds == [0, 1, 2]
    assert pair.difference.interval == pytest.approx(interval_of(CLEAR[:3]))
    assert pair.verdict.so_far
    assert pair.diverged == ()


def test_pairs_of_a_run_that_diverged_are_left_out_and_counted(tmp_path):
    of = table()
    put_pairs(tmp_path, of, CLEAR)
    put(tmp_path, of, "none", 1, None)
    put(tmp_path, of, "ab", 3, None)
    pair = the_pair(tmp_path, of)
    assert pair.difference.seeds == [0, 2, 4]
    assert pair.difference.interval == pytest.approx(interval_of(CLEAR[::2]))
    assert pair.diverged == (1, 3)
    none, ab = compare_table(of, "short", read_records(tmp_path)).rows
    assert list(none.diverged) == [1]
    assert list(ab.diverged) == [3]


def test_where_every_pair_diverged_there_is_no_difference(tmp_path):
    of = table(seeds=2)
    for seed in range(2):
        put(tmp_path, of, "none", seed, 60.0)
        put(tmp_path, of, "ab", seed, None)
    pair = the_pair(tmp_path, of)
    assert (pair.difference, pair.verdict.word, pair.diverged) == (None, NOT_RUN, (0, 1))


def test_results_of_other_images_are_not_paired(tmp_path):
    of = table()
    put_pairs(tmp_path, of, CLEAR)
    other = put(tmp_path, of, "ab", 2, 99.0, data={**DATA, "test": {"images": 5}})
    result = compare_table(of, "short", read_records(tmp_path))
    assert result.other_data == (other,)
    assert result.pairs[0].difference.seeds == [0, 1, 3, 4]


def test_seeds_beyond_those_declared_do_not_count(tmp_path):
    """Rule 6: seeds are never added because of a verdict."""
    small = TABLES["small"]
    put_small(tmp_path)
    beyond = [put(tmp_path, small, label, small.seeds, 1.0) for label in ("no block", "AB")]
    found = compare(read_records(tmp_path))
    assert found.beyond == tuple(sorted(beyond))
    assert all(p.difference.seeds == [0, 1, 2, 3, 4] for p in found.tables[0].pairs)
    assert len(found.used) == 20


def test_further_seeds_count_where_all_rows_have_them(tmp_path):
    small = TABLES["small"]
    put_small(tmp_path)
    for label in SMALL:
        put(tmp_path, small, label, 5, 66.0)
    found = compare(read_records(tmp_path))
    assert found.beyond == ()
    assert all(p.difference.seeds == [0, 1, 2, 3, 4, 5] for p in found.tables[0].pairs)
    assert not any(p.verdict.so_far for p in found.tables[0].pairs)
    write_report(read_records(tmp_path), tmp_path / "reproduction.md")
    assert "| 6 (declared: 5) |" in (tmp_path / "reproduction.md").read_text()


def test_runs_that_tables_share_count_once(tmp_path):
    put_small(tmp_path)
    found = compare(read_records(tmp_path))
    assert [result.table.name for result in found.tables] == [
        "small",
        "redundancy",
        "factors",
        "constants",
        "designs",
    ]
    (shared,) = [
        [result.table.name for result, _ in places]
        for places in found.pairs().values()
        if places[0][1].row.label == "AB" and places[0][1].reference.label == "no block"
    ]
    assert shared == ["small", "redundancy", "constants", "designs"]
    assert found.intervals == 5
    assert sum(found.verdicts().values()) == 5 + found.not_run
    assert found.hours == pytest.approx(2.0)
    everything = compare(Records({}, {})).not_run
    assert found.not_run == everything - 5


def test_budgets_of_the_same_runs_stand_together(tmp_path):
    finetune = TABLES["finetune"]
    for label in ("no block", "AB"):
        put(tmp_path, finetune, label, 0, 91.0)
    (result,) = compare(read_records(tmp_path)).tables
    assert result.budgets == ("paper", "short")


# --- times


def put_times(folder: Path, repetitions: Sequence[Mapping[str, float]]) -> None:
    of = TABLES["3"]
    for seed, values in enumerate(repetitions):
        spec = spec_of(of, of.rows[0], "short", seed)
        write_record(folder, Record(spec, values, [], 720.0, "", None, ABOUT))


def test_times_are_compared_in_percent_of_the_reference(tmp_path):
    none = [0.50, 0.52, 0.49, 0.51, 0.50]
    more = {"se": [1.06, 1.05, 1.07, 1.06, 1.05], "ab": [1.02, 1.03, 1.02, 1.01, 1.02]}
    times = [
        {"none": base, "se": base * more["se"][i], "ab": base * more["ab"][i], "ab_plus": base}
        for i, base in enumerate(none)
    ]
    put_times(tmp_path, times)
    result = compare_table(TABLES["3"], "short", read_records(tmp_path))
    found = {(pair.row.block, pair.reference.block): pair for pair in result.pairs}
    for block, ratios in more.items():
        pair = found[block, "none"]
        percent = [100 * (ratio - 1) for ratio in ratios]
        assert pair.difference.interval == pytest.approx(interval_of(percent))
    assert found["se", "none"].printed == 23.0  # 0.187 s and 0.152 s
    assert found["ab", "se"].printed == -12.8
    percent = [100 * (a / s - 1) for a, s in zip(more["ab"], more["se"], strict=True)]
    assert found["ab", "se"].difference.interval == pytest.approx(interval_of(percent))
    assert found["ab", "se"].verdict.word == CONFIRMED
    assert result.hours == pytest.approx(1.0)  # the rows share the runs
    report = write_report(read_records(tmp_path), tmp_path / "page.md")
    assert report.findings.hours == pytest.approx(1.0)
    text = (tmp_path / "page.md").read_text()
    low, high = interval_of([100 * (ratio - 1) for ratio in more["se"]])
    assert f"+5.80 % [{low:+.2f}, {high:+.2f}]" in text
    assert "+23.0 %, outside" in text


# --- the report


def cells(text: str, section: str) -> list[list[str]]:
    """The rows of the first table of a section, with its header."""
    part = text[text.index(f"\n## {section}") + 1 :]
    part = part[: part.find("\n## ")]
    lines = [line for line in part.splitlines() if line.startswith("|")]
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]
    return [rows[0], *rows[2:]]


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


def test_a_bar_in_a_label_does_not_end_its_cell(tmp_path, monkeypatch):
    first, *others = TABLES["small"].rows
    rows = (replace(first, label="none | *none*"), *others)
    monkeypatch.setitem(TABLES, "small", replace(TABLES["small"], rows=rows))
    put(tmp_path, TABLES["small"], "none | *none*", 0, 60.0)
    write_report(read_records(tmp_path), tmp_path / "page.md")
    assert "| none \\| \\*none\\* | 71.4 |" in (tmp_path / "page.md").read_text()


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


def test_without_results_the_report_says_so(tmp_path):
    readme = tmp_path / "README.md"
    readme.write_text(f"{BEGIN}\n{END}\n")
    report = write_report(
        read_records(tmp_path / "none"),
        tmp_path / "page.md",
        readme=readme,
        html=tmp_path / "page.html",
    )
    assert "Nothing was run" in (tmp_path / "page.md").read_text()
    assert "No table of the paper was made again yet ([what each needs](page.md))." in (
        readme.read_text()
    )
    assert "No pair of runs has ended." in (tmp_path / "gain.svg").read_text()
    assert report.summary().startswith("0 results: ")
    assert not any((report.findings.tables, report.to_dict()["tables"]))


def test_every_number_is_in_the_plain_values(tmp_path):
    put_small(tmp_path / "results")
    report = write_report(read_records(tmp_path / "results"), tmp_path / "page.md")
    value = json.loads(json.dumps(report.to_dict()))
    assert (value["results"], value["intervals"]) == (20, 5)
    assert value["written"] == [str(tmp_path / "page.md"), str(tmp_path / "gain.svg")]
    small = value["tables"][0]
    (ab,) = [row for row in small["rows"] if row["label"] == "AB"]
    assert ab["by_seed"] == {str(seed): top1 for seed, top1 in enumerate(SMALL["AB"])}
    against = ab["differences"][1]
    gains = np.array(SMALL["AB"]) - np.array(SMALL["SE"])
    assert (against["reference"], against["printed"]) == ("SE", 0.4)
    assert against["interval"] == pytest.approx(interval_of(gains))
    assert against["spread"] == pytest.approx(np.std(gains, ddof=1))
    assert against["verdict"] == CONFIRMED
    assert against["holds_printed"] is False


def test_the_same_results_give_the_same_bytes(tmp_path):
    put_small(tmp_path / "results")
    put(tmp_path / "results", TABLES["6"], "AB", 0, 70.0, model="resnet56")
    (tmp_path / "results" / "bad.json").write_text("{")
    records = read_records(tmp_path / "results")
    turned = Records(dict(reversed(records.found.items())), records.left_out)
    written = []
    for name, these in (("a", records), ("b", turned)):
        folder = tmp_path / name
        folder.mkdir()
        (folder / "README.md").write_text(f"# A\n\n{BEGIN}\n{END}\n")
        output, html = folder / "docs" / "page.md", folder / "page.html"
        write_report(these, output, readme=folder / "README.md", html=html)
        written.append({p.name: p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()})
    assert len(written[0]) == 4
    assert written[0] == written[1]


# --- README


def test_the_block_of_the_readme_is_replaced(tmp_path):
    put_small(tmp_path / "results")
    readme = tmp_path / "README.md"
    before, after = "# Title\r\n\ntext\n\n", "\n\nmore ümlaut\n"
    readme.write_bytes(f"{before}{BEGIN}\nold\n{END}{after}".encode())
    output = tmp_path / "docs" / "page.md"
    for _ in range(2):
        write_report(read_records(tmp_path / "results"), output, readme=readme)
        text = readme.read_bytes().decode()
        assert text.startswith(before + BEGIN)
        assert text.endswith(END + after)
    block = text[text.index(BEGIN) : text.index(END)]
    assert "old" not in block
    assert "](docs/gain.svg)" in block
    assert "[all tables](docs/page.md)" in block
    gains = np.array(SMALL["AB"]) - np.array(SMALL["no block"])
    low, high = interval_of(gains)
    gain = f"{gains.mean():+.2f} [{low:+.2f}, {high:+.2f}]"
    row = (
        f"| AB | {np.mean(SMALL['AB']):.2f} ± {np.std(SMALL['AB'], ddof=1):.2f} | no block | {gain}"
    )
    assert row in block
    assert "paper (ResNet-56)" in block
    assert " 5 of 5 seeds;" in block
    assert "No table was run with the budget paper" in block
    assert "Not run: Finetune, Zeroing, Table 2," in block


def test_the_readme_shows_the_first_table_where_small_has_no_results(tmp_path):
    for label in ("no block", "SE"):
        put(tmp_path / "results", TABLES["6"], label, 0, 70.0, model="resnet56")
    readme = tmp_path / "README.md"
    readme.write_text(f"{BEGIN}\n{END}\n")
    write_report(read_records(tmp_path / "results"), tmp_path / "page.md", readme=readme)
    assert "Measured: CIFAR-100." in readme.read_text()
    assert "| resnet56, SE |" in readme.read_text()


@pytest.mark.parametrize(
    "text", ["nothing", BEGIN, f"{END}\n{BEGIN}", f"{BEGIN}{END}\n{BEGIN}{END}"]
)
def test_a_readme_without_the_marks_is_refused(tmp_path, text):
    readme = tmp_path / "README.md"
    readme.write_text(text)
    with pytest.raises(ValueError, match="add them where") as caught:
        write_report(Records({}, {}), tmp_path / "docs" / "page.md", readme=readme)
    assert BEGIN in str(caught.value)
    assert END in str(caught.value)
    assert readme.read_text() == text
    assert not (tmp_path / "docs").exists()


# --- pictures


def small_result(folder: Path) -> TableResult:
    put_small(folder)
    return compare(read_records(folder)).tables[0]


def test_the_picture_shows_what_was_found(tmp_path, monkeypatch):
    kept = []
    monkeypatch.setattr(figures, "to_svg", lambda figure: kept.append(figure) or "")
    result = small_result(tmp_path)
    figures.differences(result)
    (axes,) = kept[0].axes
    lines = [(line.get_marker(), list(map(float, line.get_xdata()))) for line in axes.lines]
    means = [x for marker, (x, *_) in lines if marker == "o"]
    diamonds = [x for marker, (x, *_) in lines if marker == "D"]
    in_order = sorted(result.pairs, key=lambda pair: pair.reference.block != "none")
    assert means == pytest.approx([pair.difference.mean for pair in in_order])
    assert diamonds == [1.3, 1.7, 2.3, 0.4, 1.0]
    plain = [xs for marker, xs in lines if marker == "None"]
    for label, reference in (("AB", "no block"), ("AB-Plus", "SE")):
        gains = np.array(SMALL[label]) - np.array(SMALL[reference])
        assert any(xs == pytest.approx(interval_of(gains)) for xs in plain)
        assert all(any(xs == pytest.approx([g, g]) for xs in plain) for g in gains)
    texts = [text.get_text() for text in axes.texts]
    assert texts[0] == "minus no block"
    words = [text for text in texts if text in (CONFIRMED, CONTRADICTED, TOO_SMALL)]
    assert words == [pair.verdict.word for pair in in_order]


def test_the_picture_is_an_svg_on_white(tmp_path):
    text = figures.differences(small_result(tmp_path))
    root = ElementTree.fromstring(text)
    assert float(root.get("width").removesuffix("pt")) == pytest.approx(600, abs=1)  # 800 pixels
    background = text[: text.index("<!-- minus no block -->")]
    assert re.search(r"fill: #ffffff", background)
    assert "<!-- confirmed -->" in text


def test_the_page_has_tables_and_a_picture_of_each_table_with_a_pair(tmp_path):
    put_small(tmp_path / "results")
    write_report(read_records(tmp_path / "results"), tmp_path / "a.md", html=tmp_path / "a.html")
    html = (tmp_path / "a.html").read_text()
    assert html.count("<svg") == 4  # of factors there is one row alone
    assert "+1.7, inside" in html
    assert "<script" not in html
    assert "`" not in re.sub(r"<svg.*?</svg>|<style.*?</style>", "", html, flags=re.DOTALL)
    assert "2026-01-02T03:04:05Z</footer>" in html

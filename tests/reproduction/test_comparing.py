"""One table: which results count, and how rows are compared."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import pytest
from support.detector_runs import TINY_DETECTORS, detector_spec
from support.gate_runs import ZEROING, gates_spec
from support.results import (
    ABOUT,
    CLEAR,
    DATA,
    NOT_RUN,
    interval_of,
    put,
    put_pairs,
    table,
    the_pair,
)

from accuracy_booster.reproduction import TABLES
from accuracy_booster.reproduction.comparing import compare_table
from accuracy_booster.reproduction.record import Record
from accuracy_booster.reproduction.report import write_report
from accuracy_booster.reproduction.result_files import Records, read_records, write_record
from accuracy_booster.reproduction.specs import spec_of
from accuracy_booster.reproduction.table import AP, AP50
from accuracy_booster.reproduction.verdicts import CONFIRMED


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


def test_rows_of_one_detector_are_its_two_numbers(made_detectors):
    records = read_records(made_detectors.results)
    result = compare_table(TINY_DETECTORS, "short", records)
    by_label = {row.row.label: row for row in result.rows}
    for name, cell in (("AP50", AP50), ("AP", AP)):
        plain, boosted = (
            records.found[detector_spec(f"{b}, {name}").key] for b in ("no block", "AB")
        )
        assert by_label[f"AB, {name}"].by_seed == {0: boosted.values[cell]}
        (pair,) = by_label[f"AB, {name}"].pairs
        assert pair.difference.by_seed[0] == boosted.values[cell] - plain.values[cell]
        assert pair.printed == {"AP50": 2.0, "AP": 1.6}[name]
    assert len({pair.key for pair in result.pairs}) == 2


def test_rows_of_one_run_are_told_apart(made_gates):
    result = compare_table(ZEROING, "smoke", read_records(made_gates.results))
    record = read_records(made_gates.results).found[gates_spec(ZEROING, "all channels").key]
    by_label = {row.row.label: row for row in result.rows}
    for percent in (5, 25):
        row = by_label[f"highest {percent} %"]
        assert row.by_seed == {0: record.values[f"highest {percent}"]}
        whole, control = row.pairs
        assert whole.difference.by_seed[0] == pytest.approx(
            record.values[f"highest {percent}"] - record.values["top1"]
        )
        assert control.reference.label == f"random {percent} %"
    assert len({pair.key for pair in result.pairs}) == len(result.pairs)

"""Results that their runs cannot have come to are left out."""

from __future__ import annotations

from dataclasses import replace

import pytest
from support.detector_runs import detector_spec
from support.gate_runs import ZEROING, gates_spec

from accuracy_booster.reproduction.record import Record
from accuracy_booster.reproduction.result_files import read_records, write_record
from accuracy_booster.reproduction.table import AP, AP50


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({AP: 101.0}, "not from 0 to 100"),
        ({AP: 99.0, AP50: 98.0}, "its AP is 99, and its AP50, which is never less, 98"),
        ({AP50: 99.0, AP: 98.0}, "its AP is 98, and its last epoch's"),
        ({"top1": 1.0}, "does not hold AP, AP50"),
    ],
)
def test_impossible_results_of_detectors_are_left_out(made_detectors, tmp_path, change, reason):
    record = read_records(made_detectors.results).found[detector_spec("AB, AP").key]
    write_record(tmp_path, replace(record, values={**record.values, **change}))
    (told,) = read_records(tmp_path).left_out.values()
    assert reason in told


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"frozen": 101.0}, "not from 0 to 100"),
        ({"other": 1.0}, "does not hold the accuracy with each change"),
    ],
)
def test_impossible_results_of_gates_are_left_out(made_gates, tmp_path, change, reason):
    spec = gates_spec(ZEROING, "all channels")
    record = read_records(made_gates.results).found[spec.key]
    changed = Record(spec, {**record.values, **change}, about=record.about)
    write_record(tmp_path, changed)
    (told,) = read_records(tmp_path).left_out.values()
    assert reason in told

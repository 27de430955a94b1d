"""Result files: their names, and those that are damaged or do not count."""

from __future__ import annotations

import json
import re

import pytest
from support.runs import TINY, copied, specs

from accuracy_booster.files import HASH, read_json, write_json
from accuracy_booster.reproduction import read_records
from accuracy_booster.reproduction.record import Record
from accuracy_booster.reproduction.result_files import write_record
from accuracy_booster.reproduction.status_report import status


def _of_another_version(value):
    value["about"]["code"]["version"] += 1


def _of_another_configuration(value):
    value["run"]["options"]["epochs"] = 7


def _with(**values):
    def change(value):
        value["values"].update(values)

    return change


def _without_epochs(value):
    value["epochs"] = []


def _of_another_last_epoch(value):
    value["epochs"][-1]["test_top1"] += 1


def _without_values(value):
    value["values"] = {}


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (_of_another_version, r"of version 2 of the code, and this is version 1"),
        (_of_another_configuration, r"means something else in this version"),
        (_without_values, r"no top-1 and top-5"),
        (_with(top1=151.0), r"not from 0 to 100"),
        (_with(top1=-3), r"not from 0 to 100"),
        (_with(top5=0.0), r"not from 0 to 100"),
        (_with(top1=True), r"True where a finite number must be"),
        (_with(top1="51"), r"'51' where a finite number must be"),
        (_with(top1=float("nan")), r"nan where a finite number must be"),
        (_with(top1=10**400), r"damaged: OverflowError"),
        (_with(top3=50.0), r"no top-1 and top-5"),
        (_without_epochs, r"holds 0 epochs, and its run has 1"),
        (_of_another_last_epoch, r"its last epoch's"),
        (lambda value: value.pop("run"), r"damaged"),
        (lambda value: value.update(epochs=3), r"damaged"),
    ],
)
def test_a_result_that_does_not_count_is_named_and_left_out(change, reason, made, tmp_path, capsys):
    here = copied(made, tmp_path)
    path = here.results / f"{specs()[0].name}.json"
    value = read_json(path)
    change(value)
    write_json(path, value)
    found = read_records(here.results)
    assert len(found.found) == 1
    assert list(found.left_out) == [path]
    assert re.search(reason, found.left_out[path])
    state = status([TINY], here, budget="smoke")
    assert (state.tables[0].done, state.tables[0].runs) == (1, 2)
    assert any(path.name in line for line in state.lines())


@pytest.mark.parametrize("damage", ["cut", "changed", "no hash", "another name", "a directory"])
def test_a_damaged_result_is_named_and_left_out(damage, made, tmp_path):
    here = copied(made, tmp_path)
    path = here.results / f"{specs()[0].name}.json"
    text = path.read_text()
    if damage == "cut":
        path.write_text(text[: len(text) // 2])
    elif damage == "changed":
        path.write_text(text.replace('"top1": ', '"top1": 9'))
    elif damage == "no hash":
        value = json.loads(text)
        del value[HASH]
        path.write_text(json.dumps(value))
    elif damage == "another name":
        path = path.rename(path.with_name("best.json"))
    else:
        path.unlink()
        path.mkdir()
    found = read_records(here.results)
    assert len(found.found) == 1
    assert list(found.left_out) == [path]


def test_write_record_names_the_file_after_its_run(tmp_path):
    spec = specs()[0]
    path = write_record(tmp_path, Record(spec, {"top1": 1.0, "top5": 2.0}))
    assert re.fullmatch(r"resnet8-none-digits-[0-9a-f]{12}-s0\.json", path.name)
    assert path.name == f"{spec.name}.json"

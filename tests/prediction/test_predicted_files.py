"""Predictions as CSV and JSON, which other programs read."""

from __future__ import annotations

import csv
import json

import pytest
from support.hostile import EVIL, NOT_UTF8

from accuracy_booster.prediction import Prediction, write

FOUND = [
    Prediction(f"a,{EVIL}.jpg", ("cat, tabby", 'the "dog"'), (0.75, 0.25)),
    Prediction(1, ("x",), (1.0,)),
    Prediction(f"{NOT_UTF8}.jpg", (), (), unreadable="cannot read the image"),
]


def test_csv_and_json_say_the_same(tmp_path):
    write(tmp_path / "p.csv", FOUND)
    write(tmp_path / "p.json", FOUND)
    with (tmp_path / "p.csv").open(newline="") as f:
        rows = list(csv.reader(f))
    columns = ["image", "class", "probability", "class_2", "probability_2", "unreadable"]
    assert rows[0] == columns
    assert rows[1] == [FOUND[0].image, "cat, tabby", "0.75", 'the "dog"', "0.25", ""]
    assert rows[2] == ["1", "x", "1", "", "", ""]
    assert rows[3][1:] == ["", "", "", "", "cannot read the image"]
    value = json.loads((tmp_path / "p.json").read_text())
    assert value["images"] == [p.to_dict() for p in FOUND[:2]]
    assert value["unreadable"] == {FOUND[2].image: "cannot read the image"}
    assert str(FOUND[0]) == 'cat, tabby 75.0 %, the "dog" 25.0 %'


def test_a_file_of_another_kind(tmp_path):
    with pytest.raises(ValueError, match=r"p.txt must end with .csv or .json"):
        write(tmp_path / "p.txt", FOUND)

"""The texts of exported files."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
from support.exported_files import ABOUT

from accuracy_booster.exported import About


def test_texts_say_everything_again():
    about = replace(
        ABOUT,
        crop_pct=0.9,
        classes=('the "dog"', "a,b", "Ä\n"),
        training={"seed": 0, "lr": 0.1},
        metrics={"top1": 70.5},
        versions={"torch": "2"},
    )
    texts = about.to_texts()
    assert all(isinstance(text, str) for text in texts.values())
    assert About.from_texts(texts, "x") == about
    assert About.from_texts(ABOUT.to_texts(), "x") == ABOUT


def test_texts_of_a_later_version_that_this_one_reads():
    texts = ABOUT.to_texts() | {"something": "new"}
    assert About.from_texts(texts, "x") == ABOUT


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"format": "2"}, "x.onnx was written by a newer version.*'2'.*pip install -U"),
        ({"format": "new"}, "written by a newer version"),
        ({"format": None}, "does not say how its images are made.*export the run again"),
        ({"input_size": None}, "does not say how its images are made"),
        ({"mean": "[0.5"}, "the texts in x.onnx are damaged"),
        ({"std": None}, "the texts in x.onnx are damaged.*std.*export the run again"),
        ({"classes": "3"}, "the texts in x.onnx are damaged"),
        ({"classes": "[1, 2]"}, r"damaged \(classes=\(1, 2\) are not all names"),
        ({"input_size": "[3, 8]"}, r"damaged \(input_size=\(3, 8\) is not three whole numbers"),
        ({"input_size": "[3, 8, -1]"}, "is not three whole numbers >= 1"),
        ({"input_size": '["a", 8, 8]'}, "is not three whole numbers >= 1"),
        ({"batch": '"x"'}, "batch='x' is not a whole number >= 1"),
        ({"threads": "0"}, "threads=0 is not a whole number >= 1"),
        ({"crop_pct": "5"}, "crop_pct=5 is not above 0 and at most 2"),
        ({"mean": "[0.5]"}, "mean and std do not have 3 values, one per channel"),
        ({"std": '[0.5, "x", 0.5]'}, "mean and std are not all numbers"),
        ({"std": "[0.5, NaN, 0.5]"}, "mean and std are not all numbers"),
    ],
)
def test_texts_that_are_refused(change, says):
    texts = {k: v for k, v in (ABOUT.to_texts() | change).items() if v is not None}
    with pytest.raises(ValueError, match=says):
        About.from_texts(texts, "x.onnx")


def test_the_texts_are_json():
    texts = ABOUT.to_texts()
    assert json.loads(texts["classes"]) == ["a", "b", "c"]
    assert json.loads(texts["input_size"]) == [3, 8, 10]
    assert texts["interpolation"] == "bilinear"

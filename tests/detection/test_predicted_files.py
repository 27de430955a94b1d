"""Predictions of image files: pictures and predictions.json."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from support.stand_ins import CLASSES, Finds

from accuracy_booster import files
from accuracy_booster.detection import draw, predict_files


def test_pictures_and_values_are_written(make_folder: Callable[..., Path], tmp_path: Path) -> None:
    root = make_folder({"a": 1, "b": 2, "c": [b"no image"]}, size=(20, 24))
    output = tmp_path / "out"
    told = []
    made = predict_files(
        Finds(), CLASSES, [root], output, 0.5, lambda path, found: told.append((path, found))
    )
    names = ["000.png", "000-2.png", "001.png"]
    assert [picture.name for picture in made.pictures] == names
    (bad,) = made.unreadable
    assert bad.endswith("c/000.png")
    assert "it is no image" in made.unreadable[bad]
    assert [path for path, found in told if found is None] == [bad]
    assert [found for _, found in told if found is not None] == made.predictions
    written = files.read_json(output / "predictions.json", must_hold_hash=True)
    assert written["finished"] is True
    assert written["classes"] == CLASSES
    assert written["unreadable"] == made.unreadable
    assert [image["picture"] for image in written["images"]] == names
    first = {k: v for k, v in written["images"][0].items() if k != "picture"}
    assert first == made.predictions[0].to_dict()
    assert first["image"].endswith("a/000.png")
    assert {file.name for file in output.iterdir()} == {*names, "predictions.json"}
    with Image.open(output / "000.png") as picture, Image.open(root / "a" / "000.png") as source:
        expected = np.array(draw(source, made.predictions[0]))
        assert np.array_equal(np.array(picture), expected)


def test_a_second_prediction_replaces_the_first_alone(
    make_folder: Callable[..., Path], tmp_path: Path
) -> None:
    root = make_folder({"a": 1}, size=(20, 24))
    output = tmp_path / "out"
    predict_files(Finds(), CLASSES, [root], output, 0.5)
    before = (output / "000.png").read_bytes()
    (output / "000-2.png").write_bytes(b"mine")
    made = predict_files(Finds(), CLASSES, [root, output / "000.png"], output, 0)
    # 000.png is a source now, 000-2.png is another's file
    assert [picture.name for picture in made.pictures] == ["000-3.png", "000-4.png"]
    assert (output / "000.png").read_bytes() == before
    assert (output / "000-2.png").read_bytes() == b"mine"
    third = predict_files(Finds(), CLASSES, [root], output, 0)
    assert [picture.name for picture in third.pictures] == ["000-3.png"]


def test_one_name_in_two_cases(make_folder: Callable[..., Path], tmp_path: Path) -> None:
    root = make_folder({"a": 1})
    (root / "a" / "000.png").rename(root / "a" / "Cat.png")
    (root / "b").mkdir()
    (root / "b" / "cat.PNG").write_bytes((root / "a" / "Cat.png").read_bytes())
    made = predict_files(Finds(), CLASSES, [root], tmp_path / "out")
    assert [picture.name for picture in made.pictures] == ["Cat.png", "cat-2.png"]


def test_output_directories_that_are_refused(
    make_folder: Callable[..., Path], tmp_path: Path
) -> None:
    root = make_folder({"a": 1})
    before = (root / "a" / "000.png").read_bytes()
    with pytest.raises(
        ValueError, match=r"holds other files \(000\.png\) and no predictions\.json"
    ):
        predict_files(Finds(), CLASSES, [root], root / "a")
    assert [file.name for file in (root / "a").iterdir()] == ["000.png"]
    assert (root / "a" / "000.png").read_bytes() == before
    other = tmp_path / "other"
    other.mkdir()
    (other / "predictions.json").write_text(json.dumps({"mine": 1}))
    with pytest.raises(ValueError, match="is of no earlier prediction"):
        predict_files(Finds(), CLASSES, [root], other)
    with pytest.raises(ValueError, match="is a file, not a directory"):
        predict_files(Finds(), CLASSES, [root], root / "a" / "000.png")


def test_no_file_can_be_read(make_folder: Callable[..., Path], tmp_path: Path) -> None:
    root = make_folder({"a": [b"x", b"y"]})
    with pytest.raises(ValueError, match="none of 2 images can be read; the first: cannot read"):
        predict_files(Finds(), CLASSES, [root], tmp_path / "out")

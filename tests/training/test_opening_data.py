"""What the data decide of a configuration."""

import json

from support.trainings import SIZE_32, small, stored

import accuracy_booster as ab
from accuracy_booster.training import resolve


def test_a_run_keeps_absolute_paths_and_marks_of_its_data(here):
    result = small("images", output="run", data_dir="cache")
    assert result.config.data == str(here / "images") == stored(here / "run")["data"]
    assert stored(here / "run")["data_dir"] == str(here / "cache")
    marks = json.loads((here / "run" / "run.json").read_text())["data"]
    assert {split: mark["images"] for split, mark in marks.items()} == {"train": 16, "test": 8}
    digits = ab.train("resnet8", epochs=1, device="cpu", output="digits")
    assert digits.config.data == "digits"
    assert list(json.loads((here / "digits" / "run.json").read_text())["data"]) == ["train", "test"]
    named = resolve("resnet8", data="./")
    assert named.data_name == here.name


def test_a_batch_larger_than_the_data_is_the_data_in_one_part(folder, tmp_path):
    options = {**SIZE_32, "batch_size": 64, "accumulate": 4, "output": str(tmp_path / "run")}
    result = ab.train("resnet8", data=str(folder), **options)
    assert (result.config.batch_size, result.config.accumulate) == (24, 1)

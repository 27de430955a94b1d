"""What cannot be measured is told: runs, data, options and modules."""

import re

import pytest
from support.trainings import short
from torch import nn

import accuracy_booster as ab


def test_evaluate_refusals(grey, tmp_path):
    result = ab.train("resnet8", data=str(grey), **short(tmp_path))
    with pytest.raises(ValueError, match="3"):
        ab.evaluate(result.output, "digits")
    with pytest.raises(ValueError, match="holds no run"):
        ab.evaluate(tmp_path)
    with pytest.raises(ValueError, match="nearest: eval_batch_size"):
        ab.evaluate(result.output, batch_size=3)
    with pytest.raises(ValueError, match="more than the head's 2"):
        ab.evaluate(nn.Sequential(nn.Flatten(), nn.Linear(768, 2)), str(grey))
    weights = result.output / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-100])
    with pytest.raises(ValueError, match="is damaged"):
        ab.evaluate(result.output)
    weights.unlink()
    with pytest.raises(
        ValueError,
        match=f"has not ended.*: accuracy-booster train --resume {re.escape(str(result.output))}",
    ):
        ab.evaluate(result.output)


@pytest.mark.parametrize(
    ("folders", "share", "told"),
    [
        ({"a": 10, "b": 10}, 0.2, "share that --validation held out is its test split; give --sp"),
        ({"train/a": 8, "train/b": 8, "val/a": 2, "val/b": 2}, 0.0, "have val/ as the test split"),
    ],
)
def test_no_test_split_is_measured_as_validation(make_folder, tmp_path, folders, share, told):
    root = str(make_folder(folders))
    run = ab.train("resnet8", data=root, **short(tmp_path, validation=share)).output
    with pytest.raises(ValueError, match=f"has no validation split.*{told}"):
        ab.evaluate(run, split="validation")
    assert ab.evaluate(run).images == 4
    assert ab.evaluate(run, split="train").images == 16


def test_a_validation_split_in_place_of_bare_test_images_is_no_validation_split(
    make_folder, make_parquet, tmp_path
):
    image = (make_folder({"any": 1}) / "any" / "000.png").read_bytes()
    splits = {"train": [0, 1] * 8, "validation": [0, 1] * 2, "test": [-1] * 3}
    files = {f"{s}.parquet": {"image": [image] * len(x), "label": x} for s, x in splits.items()}
    root = make_parquet(files)
    run = ab.train("resnet8", data=str(root), **short(tmp_path)).output
    with pytest.raises(
        ValueError, match="the validation split of its data is its test split; give --split"
    ):
        ab.evaluate(run, split="validation")
    assert ab.evaluate(run).images == 4


def test_a_validation_split_beside_the_test_split_is_measured(make_folder, tmp_path):
    folders = {f"{split}/{c}": 5 for split in ("train", "val") for c in "ab"}
    root = str(make_folder(folders | {"test/a": 3, "test/b": 3}))
    run = ab.train("resnet8", data=root, **short(tmp_path)).output
    assert ab.evaluate(run, split="validation").images == 10
    held = ab.train("resnet8", data=root, **short(tmp_path, "held", validation=0.4)).output
    assert ab.evaluate(held, split="validation").images == 4

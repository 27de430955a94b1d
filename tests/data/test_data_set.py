"""An opened data set is seeded anew, and says whether it can train."""

from __future__ import annotations

import pytest
from support.datasets import (
    TRAIN,
    cut,
    image_numbers,
    run,
)

from accuracy_booster.data import (
    load_data,
)


def test_reseeding_is_loading_with_that_seed(ten):
    data = load_data(ten, batch_size=5, seed=1)
    again, other = data.reseed(1), data.reseed(2)
    expected = image_numbers(load_data(ten, batch_size=5, seed=2), "train")
    assert image_numbers(other, "train") == expected
    assert image_numbers(again, "train") == image_numbers(data, "train") != expected
    assert image_numbers(other, "test") == image_numbers(data, "test")
    assert (other.classes, other.mean, other.std) == (data.classes, data.mean, data.std)


pytestmark = pytest.mark.forks


def test_one_training_image(make_folder, png, pixels, tmp_path, capsys):
    root = make_folder({"train/a": 1, "val/a": 1})
    words = (*TRAIN, "--data", root, "--output", tmp_path / "run")
    last = run(*words, capsys=capsys)
    assert "has 1 image, and a batch norm needs two" in last
    (root / "train/a/001.png").write_bytes(cut(png, pixels, 8)[0])
    assert "has 1 image (1 more cannot be read; the first: " in run(*words, capsys=capsys)
    assert not (tmp_path / "run").exists()

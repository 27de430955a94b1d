"""Which split a folder is, by its name."""

from __future__ import annotations

import pytest
from support.datasets import (
    chw,
    raw,
)

from accuracy_booster.data import load_data


@pytest.mark.parametrize(
    ("folders", "splits"),
    [
        (("train", "val"), {"train": "train", "test": "val"}),
        (("train", "test"), {"train": "train", "test": "test"}),
        (("training", "testing"), {"train": "training", "test": "testing"}),
        (("train", "valid"), {"train": "train", "test": "valid"}),
        (("train", "validation"), {"train": "train", "test": "validation"}),
        (("train", "val", "test"), {"train": "train", "validation": "val", "test": "test"}),
        (("train", "dev", "test"), {"train": "train", "validation": "dev", "test": "test"}),
        (("train", "val", "notes"), {"train": "train", "test": "val"}),
    ],
)
def test_names_of_splits(make_folder, pixels, folders, splits):
    data = load_data(str(make_folder({f"{folder}/a": 1 for folder in folders})))
    assert set(data.loaders) == set(splits)
    for split, folder in splits.items():
        assert raw(data, split)[0] == [chw(pixels(f"{folder}/a/0", 8, 8)).numpy().tobytes()]

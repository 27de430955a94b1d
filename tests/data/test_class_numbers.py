"""All splits number their classes alike, and as a network expects."""

from __future__ import annotations

import pytest
from support.datasets import (
    NAMES,
    everything,
    one_line,
    raw,
)

from accuracy_booster.data import load_data


def test_text_labels_that_training_lacks(make_parquet, encoded):
    files = {
        "train.parquet": {"image": encoded[:2], "label": ["cow", "ant"]},
        "test.parquet": {"image": encoded[:2], "label": ["cow", "dog"]},
    }
    with one_line("test split .*dog.* not among the 2"):
        load_data(str(make_parquet(files)))


def test_unnamed_classes_of_the_split_with_more(make_parquet, encoded):
    files = {
        "train.parquet": {"image": encoded, "label": [0, 1, 1, 0]},
        "test.parquet": {"image": encoded, "label": [0, 1, 2, 3]},
    }
    assert load_data(str(make_parquet(files))).classes == ("0", "1", "2", "3")


def test_unnamed_classes_may_have_gaps(make_parquet, encoded):
    """A part of a data set of 200 classes: the numbers stay."""
    root = make_parquet({"test.parquet": {"image": encoded, "label": [7, 199, 0, 7]}})
    data = load_data(str(root), splits=("test",))
    assert data.classes == tuple(str(i) for i in range(200))
    assert raw(data, "test")[1] == [7, 199, 0, 7]


def test_classes_renumber_by_name(make_folder):
    root = make_folder({"train/ant": 1, "train/cow": 1, "val/ant": 1, "val/cow": 2})
    expected = ("cow", "dog", "ant")
    data = load_data(str(root), classes=expected)
    assert data.classes == expected
    assert everything(data, "test")[1].tolist() == [2, 0, 0]
    assert raw(data, "train")[1] == [2, 0]


@pytest.mark.parametrize("expected", [("ant",), ("bee", "cat"), ("0", "1", "2")])
def test_classes_that_are_not_expected(make_folder, expected):
    root = make_folder({"train/ant": 1, "train/cow": 1, "val/ant": 1, "val/cow": 1})
    with one_line(f"has 2 classes.*cow.*not among the {len(expected)}"):
        load_data(str(root), classes=expected)


def test_unnamed_classes_index_the_expected_ones(make_parquet, encoded):
    root = str(make_parquet({"test.parquet": {"img": encoded, "label": [0, 1, 2, 1]}}))
    data = load_data(root, splits=("test",), classes=NAMES)
    assert data.classes == tuple(NAMES)
    assert raw(data, "test")[1] == [0, 1, 2, 1]
    with one_line("has 3 classes.*not among the 2"):
        load_data(root, splits=("test",), classes=NAMES[:2])


def test_numbered_folders_index_by_name(make_folder):
    """A folder called 2 is class "2" of the run, though it is not the run's third by name."""
    root = make_folder({"val/0": 1, "val/1": 1, "val/2": 1})
    expected = tuple(sorted(str(i) for i in range(12)))
    data = load_data(str(root), splits=("test",), classes=expected)
    assert [data.classes[label] for label in raw(data, "test")[1]] == ["0", "1", "2"]

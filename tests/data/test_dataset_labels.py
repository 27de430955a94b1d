"""Labels and class names of data sets that the caller gives, against the items themselves."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import torchvision
from PIL import Image
from torch.utils.data import ConcatDataset, Subset, TensorDataset

from accuracy_booster.data.dataset_images import DatasetImages, WrongItem
from accuracy_booster.data.dataset_labels import labels_and_names

IMAGE = torch.zeros(3, 2, 2, dtype=torch.uint8)


class Kept:
    """A data set that keeps its labels, and counts how often it is read."""

    def __init__(self, labels, kept="targets", classes=None, shift=0):
        self.own = labels
        setattr(self, kept, [(i, n) for i, n in enumerate(labels)] if kept == "samples" else labels)
        if classes:
            self.classes = classes
        self.shift, self.reads = shift, 0

    def __len__(self):
        return len(self.own)

    def __getitem__(self, index):
        self.reads += 1
        label = self.own[index]
        return IMAGE, label + self.shift if self.shift else label


def found(dataset):
    labels, names = labels_and_names(DatasetImages(dataset, "x", None, None))
    return labels.tolist(), names


@pytest.mark.parametrize("kept", ["targets", "labels", "samples", "nothing"])
def test_labels_are_taken_from_where_data_sets_keep_them(kept):
    labels = [i % 3 for i in range(40)]
    dataset = Kept(labels, kept, classes=["a", "b", "c"])
    assert found(dataset) == (labels, ("a", "b", "c"))
    assert (dataset.reads > 40) is (kept == "nothing")


def test_kept_labels_that_the_items_do_not_have_are_not_used():
    assert found(Kept([0, 1, 2], shift=4)) == ([4, 5, 6], None)


def test_a_target_transform_counts():
    dataset = Kept([0, 1, 2], shift=1)
    dataset.target_transform = lambda label: label + 1
    assert found(dataset) == ([1, 2, 3], None)
    assert dataset.reads < 7


def test_subsets_and_concatenations():
    one, other = Kept([0, 1, 2] * 10), Kept([2, 2, 1])
    both = ConcatDataset([Subset(one, [4, 3, 2]), other])
    assert found(both) == ([1, 0, 2, 2, 2, 1], None)
    assert one.reads <= 5
    one.classes, other.classes = ["a", "b", "c"], ["b", "a", "c"]
    with pytest.raises(ValueError, match="have other classes than one another"):
        found(both)


def test_names_and_truth_values_as_labels():
    assert found(Kept(["cat", "dog", "cat"])) == ([0, 1, 0], ("cat", "dog"))
    assert found(Kept(["cat", "dog"], classes=["dog", "cat"])) == ([1, 0], ("dog", "cat"))
    assert found(Kept([True, False])) == ([1, 0], None)
    assert found(Kept([None, None])) == ([-1, -1], None)


def test_tensors_as_labels():
    dataset = TensorDataset(IMAGE.repeat(4, 1, 1, 1), torch.tensor([[3], [1], [0], [2]]))
    assert found(dataset) == ([3, 1, 0, 2], None)


@pytest.mark.parametrize("label", [1.5, [0, 1], torch.tensor([0.0, 1.0]), (1, 2)])
def test_what_is_no_class_is_told(label):
    with pytest.raises(WrongItem, match="a label of x is"):
        found(Kept([label, label], "nothing"))


def test_torchvisions_data_sets(tmp_path):
    for name in ("cat", "dog"):
        (tmp_path / name).mkdir()
        for i in range(2):
            Image.new("RGB", (9, 8), (i * 9, 0, 0)).save(tmp_path / name / f"{i}.png")
    folder = torchvision.datasets.ImageFolder(tmp_path)
    assert found(folder) == ([0, 0, 1, 1], ("cat", "dog"))
    fake = torchvision.datasets.FakeData(6, (3, 8, 8), 4)
    assert found(fake) == ([int(fake[i][1]) for i in range(6)], None)


class Rows:
    """As a `datasets.Dataset`: rows of named columns, and a column by its name."""

    def __init__(self, columns, names):
        from types import SimpleNamespace

        self.columns, self.column_names, self.reads = columns, list(columns), 0
        self.features = {"label": SimpleNamespace(names=names), "img": None}

    def with_format(self, kind):
        assert kind is None
        return self.columns

    def __len__(self):
        return len(self.columns["label"])

    def __getitem__(self, row):
        self.reads += 1
        return {name: column[row] for name, column in self.columns.items()}


def test_rows_with_columns_keep_their_labels_in_one():
    rows = Rows({"img": [IMAGE] * 40, "label": [1, 0] * 20}, ["cat", "dog"])
    assert found(rows) == ([1, 0] * 20, ("cat", "dog"))
    assert rows.reads < 15


def test_hugging_faces_data_sets():
    datasets = pytest.importorskip("datasets")
    features = datasets.Features(
        {"img": datasets.Image(), "label": datasets.ClassLabel(names=["cat", "dog"])}
    )
    pictures = [Image.fromarray(np.full((4, 4, 3), i, np.uint8)) for i in range(4)]
    rows = datasets.Dataset.from_dict({"img": pictures, "label": [1, 0, 0, 1]}, features=features)
    assert found(rows) == ([1, 0, 0, 1], ("cat", "dog"))
    shuffled = rows.select([2, 3])
    assert found(shuffled) == ([0, 1], ("cat", "dog"))

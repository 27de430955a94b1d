"""The digits are scikit-learn's, and CIFAR is read as torchvision downloads it."""

from __future__ import annotations

import hashlib
import pickle
import re
import urllib.error
import urllib.request
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import torch
from support.datasets import (
    crops,
    everything,
    one_line,
    raw,
)

from accuracy_booster.data import load_data


def test_digits_are_sklearns_each_once():
    from sklearn.datasets import load_digits

    data, source = load_data("digits"), load_digits()
    assert data.classes == tuple("0123456789")
    assert data.input_size == (1, 8, 8)
    train, test = raw(data, "train"), raw(data, "test")
    assert (len(train[0]), len(test[0])) == (1437, 360)
    grey = np.rint(source.images * 255 / 16).astype(np.uint8)
    expected = Counter(
        (image.tobytes(), int(label)) for image, label in zip(grey, source.target, strict=True)
    )
    assert Counter(zip(*train, strict=True)) + Counter(zip(*test, strict=True)) == expected


def test_digits_split_is_stratified():
    data = load_data("digits")
    test, train = (Counter(raw(data, split)[1]) for split in ("test", "train"))
    for digit in range(10):
        assert abs(test[digit] - 0.2 * (test[digit] + train[digit])) < 1


def test_digits_are_the_same_each_time_and_for_each_seed():
    first, second = load_data("digits", seed=0), load_data("digits", seed=5)
    for split in ("train", "test"):
        assert raw(first, split) == raw(second, split)


def test_digits_use_the_whole_range():
    images, labels = everything(load_data("digits"), "test")
    assert images.dtype == torch.uint8
    assert labels.dtype == torch.int64
    assert (images.min(), images.max()) == (0, 255)
    assert len(images.unique()) == 17


def test_digits_are_not_mirrored():
    data = load_data("digits")
    assert data.augment == "crop"
    torch.manual_seed(0)
    dataset = data.loaders["train"].dataset
    straight = crops(dataset.images[0][0], (1, 1), mirrored=False)
    assert {dataset[0][0].numpy().tobytes() for _ in range(200)} == straight


def fake_cifar(root: Path, monkeypatch, name: str) -> dict[str, tuple[np.ndarray, list[int]]]:
    """A download of torchvision's, with few images; its check sums are the right ones."""
    from torchvision.datasets import CIFAR10, CIFAR100

    fine = name == "cifar100"
    kind, classes = (CIFAR100, 100) if fine else (CIFAR10, 10)
    folder = root / kind.base_folder
    folder.mkdir(parents=True)
    generator = np.random.default_rng(0)

    def write(file: str, content: dict) -> str:
        data = pickle.dumps(content)
        (folder / file).write_bytes(data)
        return hashlib.md5(data).hexdigest()

    written: dict[str, tuple[np.ndarray, list[int]]] = {}
    for split, attribute in (("train", "train_list"), ("test", "test_list")):
        entries, pixels, labels = [], [], []
        for file, _ in getattr(kind, attribute):
            rows = generator.integers(0, 256, (4, 3072), dtype=np.uint8)
            targets = generator.integers(0, classes, 4).tolist()
            content = {"data": rows, "fine_labels" if fine else "labels": targets}
            entries.append([file, write(file, content)])
            pixels.append(rows)
            labels += targets
        monkeypatch.setattr(kind, attribute, entries)
        written[split] = np.concatenate(pixels), labels
    names = [f"class {i}" for i in range(classes)]
    meta = {**kind.meta, "md5": write(kind.meta["filename"], {kind.meta["key"]: names})}
    monkeypatch.setattr(kind, "meta", meta)
    return written


@pytest.fixture
def offline(monkeypatch) -> None:
    def refuse(*args, **kwargs):
        raise urllib.error.URLError("Network is unreachable")

    monkeypatch.setattr(urllib.request, "urlopen", refuse)


@pytest.mark.parametrize(("name", "classes"), [("cifar10", 10), ("cifar100", 100)])
@pytest.mark.usefixtures("offline")
def test_cifar_that_torchvision_downloaded(tmp_path, monkeypatch, name, classes):
    written = fake_cifar(tmp_path, monkeypatch, name)
    data = load_data(name, data_dir=str(tmp_path))
    assert data.name == name
    assert data.classes == tuple(f"class {i}" for i in range(classes))
    assert data.input_size == (3, 32, 32)
    assert data.augment == "crop_flip"
    for split, (rows, labels) in written.items():
        assert len(rows) == (4 if split == "test" or name == "cifar100" else 20)
        pixels, found = raw(data, split)
        assert pixels == [row.tobytes() for row in rows]  # red, green and blue planes in turn
        assert found == labels


@pytest.mark.parametrize("name", ["cifar10", "cifar100"])
@pytest.mark.usefixtures("offline")
def test_cifar_without_a_network(tmp_path, name):
    with one_line(rf"cannot download {name} to {re.escape(str(tmp_path))}.*--data_dir"):
        load_data(name, data_dir=str(tmp_path))


@pytest.mark.usefixtures("offline")
def test_cifar_that_is_damaged_is_downloaded_again(tmp_path, monkeypatch):
    fake_cifar(tmp_path, monkeypatch, "cifar10")
    (tmp_path / "cifar-10-batches-py/data_batch_3").write_bytes(b"cut short")
    with one_line("cannot download cifar10"):
        load_data("cifar10", data_dir=str(tmp_path))


@pytest.mark.usefixtures("offline")
def test_cifar_in_a_place_that_cannot_be_written(tmp_path):
    (tmp_path / "file").write_text("")
    with one_line("cannot download cifar10"):
        load_data("cifar10", data_dir=str(tmp_path / "file"))

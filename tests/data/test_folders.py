"""Class folders as they lie on people's disks: classes, splits, what is left out."""

from __future__ import annotations

import os
import re
import shutil
import unicodedata
from collections import Counter

import pytest
import torch
from support.datasets import (
    TRAIN,
    chw,
    everything,
    labels,
    names,
    one_line,
    quiet,
    raw,
    sentence,
)

from accuracy_booster.cli import main
from accuracy_booster.data import (
    load_data,
)


def test_folder_of_train_and_val(make_folder, pixels):
    folders = {"train/dog": 3, "train/cat": 2, "val/cat": 2, "val/dog": 1}
    data = load_data(str(make_folder(folders)))
    assert data.classes == ("cat", "dog")
    assert data.input_size == (3, 8, 8)
    assert set(data.loaders) == {"train", "test"}
    images, labels = everything(data, "test")
    assert labels.tolist() == [0, 0, 1]
    for image, name in zip(images, ("val/cat/0", "val/cat/1", "val/dog/0"), strict=True):
        assert torch.equal(image, chw(pixels(name, 8, 8)))
    expected = [
        (chw(pixels(f"train/{c}/{i}", 8, 8)).numpy().tobytes(), label)
        for label, c, count in ((0, "cat", 2), (1, "dog", 3))
        for i in range(count)
    ]
    assert sorted(zip(*raw(data, "train"), strict=True)) == sorted(expected)


def test_class_without_test_images_keeps_its_number(make_folder):
    root = make_folder({"train/a": 1, "train/b": 1, "train/c": 1, "val/a": 1, "val/c": 1})
    data = load_data(str(root))
    assert data.classes == ("a", "b", "c")
    assert everything(data, "test")[1].tolist() == [0, 2]
    alone = load_data(str(root), splits=("test",))
    assert alone.classes == ("a", "b", "c")
    assert everything(alone, "test")[1].tolist() == [0, 2]


@pytest.mark.parametrize("split", ["train", "val"])
def test_hidden_folders_are_no_classes(make_folder, split):
    """Jupyter and macOS leave them behind; one more class would shift the numbers of all others."""
    root = make_folder({"train/a": 1, "train/b": 1, "val/a": 1, f"{split}/.ipynb_checkpoints": 0})
    data = load_data(str(root))
    assert data.classes == ("a", "b")
    assert everything(data, "test")[1].tolist() == [0]


def test_images_below_a_class_folder_belong_to_it(make_folder):
    root = make_folder({"train/a/x": 2, "train/a/y/z": 1, "train/b": 1, "val/a": 1})
    assert raw(load_data(str(root)), "train")[1] == [0, 0, 0, 1]


def test_a_folder_of_other_files_holds_no_images(make_folder):
    root = make_folder({"train/a": 0, "val/a": 1})
    (root / "train/a/notes.txt").write_text("no image")
    with one_line("train holds no images"):
        load_data(str(root))


def test_links_that_lead_nowhere_are_counted_and_named(make_folder):
    """What a folder of git-annex or DVC holds before its files are fetched."""
    root = make_folder({"train/a": 1, "train/b": 0, "val/a": 1})
    for name in ("a/x.png", "b/x.png", "b/y.png"):
        (root / "train" / name).symlink_to("nowhere")
    with pytest.warns(UserWarning, match="lead nowhere") as warned:
        load_data(str(root))
    told = sorted(str(w.message) for w in warned)
    assert re.search("class folder b of .* 0 images: it has links that lead nowhere", told[0])
    assert re.search("left out of .*train: 1 links that lead nowhere", told[1])


def test_a_class_of_unread_files_is_named_with_their_extension(make_folder):
    root = make_folder({"train/a": 2, "train/b": 0, "train/c": 0, "val/a": 1})
    for i in range(3):
        (root / f"train/b/{i}.HEIC").write_bytes(b"x")
    (root / "train/c/image0001").write_bytes(b"x")
    (root / "train/a/x.npy").write_bytes(b"x")
    (root / "train/a/notes.txt").write_bytes(b"x")
    with pytest.warns(UserWarning, match="Pillow does not read") as warned:
        data = load_data(str(root))
    told = sorted(str(w.message) for w in warned)
    assert len(told) == 3
    assert "class folder b of" in told[0]
    assert "0 images: it has 3 .heic, which Pillow does not read" in told[0]
    assert "it has 1 without an extension" in told[1]
    assert told[2].endswith("since Pillow does not read them here: 1 .npy files")
    assert data.classes == ("a", "b", "c")
    (root / "train/a/000.png").unlink()
    (root / "train/a/001.png").unlink()
    with pytest.raises(ValueError, match=r"train holds no images .*3 \.heic") as error:
        load_data(str(root))
    sentence(error)


def test_an_empty_class_and_files_of_no_bytes(make_folder):
    root = make_folder({"train/a": 2, "train/b": 0, "train/c": [b""], "val/a": 1})
    with pytest.warns(UserWarning, match="class folder b of .*train is empty"):
        data = load_data(str(root))
    assert labels(data, "train") == [0, 0]
    assert len(data.unreadable) == 1
    assert "c/000.png" in data.unreadable[0]


def test_two_spellings_of_an_accent_are_one_class(make_folder):
    composed, decomposed = (unicodedata.normalize(form, "café") for form in ("NFC", "NFD"))
    assert composed != decomposed
    root = make_folder({f"train/{decomposed}": 2, "train/b": 1, f"val/{composed}": 1, "val/b": 1})
    data = quiet(str(root))
    assert data.classes == ("b", composed)
    assert labels(data, "test") == [0, 1]
    (root / "train" / composed).mkdir()
    (root / "train" / decomposed / "000.png").rename(root / "train" / composed / "000.png")
    assert labels(quiet(str(root)), "train") == [0, 1, 1]
    assert quiet(str(root), splits=("test",), classes=(decomposed, "b")).classes[0] == composed


def test_names_that_differ_in_case(make_folder):
    root = make_folder({"train/Cat": 1, "train/dog": 1, "val/cat": 1, "val/dog": 1})
    with pytest.raises(ValueError, match=r"classes that train/ has not: cat \(cat is Cat there"):
        load_data(str(root))
    letters = make_folder({"train/a": 1, "train/A": 1, "val/a": 1}, name="letters")
    assert quiet(str(letters)).classes == ("A", "a")
    both = make_folder({"train/Cat": 1, "train/cat": 1, "val/cat": 1}, name="both")
    with pytest.warns(UserWarning, match="Cat and cat, which are taken for two classes"):
        load_data(str(both))


FLAT = {"cat": 10, "dog": 5, "emu": 5}


def test_class_folders_without_splits(make_folder):
    """A share of each class is held out by the names of its files, and is the test split."""
    root = make_folder(FLAT)
    with pytest.raises(ValueError, match=r"no test split.*--validation 0\.2 \(validation=0\.2\)"):
        load_data(str(root))
    data = load_data(str(root), validation=0.2)
    assert set(data.loaders) == {"train", "test"}
    assert data.classes == ("cat", "dog", "emu")
    assert Counter(labels(data, "test")) == {0: 2, 1: 1, 2: 1}
    train, test = (set(names(data, split)) for split in ("train", "test"))
    assert len(train | test) == 20
    assert not train & test
    assert set(names(load_data(str(root), validation=0.2, seed=7), "test")) == test
    alone = load_data(str(root), validation=0.2, splits=("test",))
    assert set(alone.loaders) == {"test"}
    assert set(names(alone, "test")) == test


def test_a_class_called_train_is_no_split(make_folder):
    data = load_data(str(make_folder({"car": 5, "plane": 5, "train": 5})), validation=0.2)
    assert data.classes == ("car", "plane", "train")
    assert len(labels(data, "train")) == 12


def test_splits_one_folder_further_down(make_folder):
    root = make_folder({"flowers/train/a": 1, "flowers/val/a": 1, "__MACOSX/flowers/train": 1})
    with pytest.raises(ValueError, match=r"give --data .*/flowers$"):
        load_data(str(root))
    assert load_data(str(root / "flowers")).classes == ("a",)
    root = make_folder({"flowers/rose": 2, "flowers/lily": 2}, name="unzipped")
    with pytest.raises(ValueError, match=r"give --data .*/flowers$"):
        load_data(str(root), validation=0.5)
    assert load_data(str(root / "flowers"), validation=0.5).classes == ("lily", "rose")


@pytest.mark.parametrize(
    ("folders", "message"),
    [
        ({"train/a": 1, "val/a": 1, "valid/a": 1}, "both val and valid.*validation split; rename"),
        ({"train/a": 1, "dev/a": 1, "val/a": 1, "test/a": 1}, "both dev and val"),
        ({"train": 2, "val": 1}, "train has no class folders: its 2 images lie in train/ itself"),
        ({"train/a": 1, "train/b": 1, "val": 1}, r"val .*1 image lie.*no labels\. .*--validation"),
        ({"train/a": 1, "train/b": 1, "test/images": 3}, "folder, images, .*no labels.*--valid"),
    ],
)
def test_splits_that_cannot_be_used(make_folder, folders, message):
    with pytest.raises(ValueError, match=message) as error:
        load_data(str(make_folder(folders)))
    sentence(error)


def test_images_beside_class_folders_are_counted(make_folder):
    root = make_folder({"train/a": 1, "train": 2, "val/a": 1})
    with pytest.warns(UserWarning, match="train: 2 images beside its class folders"):
        assert labels(load_data(str(root)), "train") == [0]


pytestmark = pytest.mark.forks


def test_class_names_that_are_no_utf8(make_folder, tmp_path):
    root = make_folder({"train/a": 4, "train/b": 4, "val/a": 1})
    for split in ("train", "val"):
        folder = os.fsencode(root / split)
        os.makedirs(folder + b"/caf\xe9")
        shutil.copy(root / "train/a/000.png", folder + b"/caf\xe9/x.png")
    out = str(tmp_path / "run")
    assert main([*TRAIN, "--data", str(root), "--output", out]) == 0
    assert main(["eval", out]) == 0

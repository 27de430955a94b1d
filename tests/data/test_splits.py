"""The test split: the data set's own, its validation split, or a held-out share."""

# N batch, C channels, H W space

from __future__ import annotations

import json
import re
from collections import Counter

import numpy as np
import pytest
import torch
from support.datasets import (
    chw,
    everything,
    labels,
    names,
    one_line,
    raw,
)

import accuracy_booster as ab
from accuracy_booster.cli import main
from accuracy_booster.data import load_data
from accuracy_booster.training.run_directory import Run


def test_only_the_wanted_splits_are_read(make_folder):
    root = make_folder({"train/a": [b"broken"], "val/a": 1, "test/a": 1})
    assert set(load_data(str(root), splits=("test",)).loaders) == {"test"}
    with one_line("none of .*train can be read"):  # one that can would do: the rest is left out
        load_data(str(root), splits=("train",))


def test_validation_share_is_disjoint_and_stratified():
    whole, data = load_data("digits"), load_data("digits", validation=0.1)
    train, held = (list(zip(*raw(data, split), strict=True)) for split in ("train", "validation"))
    assert (len(train), len(held)) == (1437 - 144, 144)
    assert Counter(train) + Counter(held) == Counter(zip(*raw(whole, "train"), strict=True))
    assert raw(data, "test") == raw(whole, "test")
    counts, all_counts = Counter(label for _, label in held), Counter(raw(whole, "train")[1])
    for digit in range(10):
        assert abs(counts[digit] - 0.1 * all_counts[digit]) < 1


def test_validation_share_is_the_same_for_every_seed():
    first, second = (load_data("digits", validation=0.2, seed=seed) for seed in (0, 9))
    for split in ("train", "validation"):
        assert raw(first, split) == raw(second, split)


@pytest.mark.parametrize("share", [-0.1, 1.0, 1.5, float("nan"), 1e-6, 0.9999])
def test_bad_validation_shares(share):
    with one_line(re.escape(f"validation={share}")):
        load_data("digits", validation=share)


def test_validation_images_are_measured_as_the_test_images_are(make_folder, pixels):
    root = make_folder({"train/a": 8, "val/a": 1}, size=(9, 9))
    data = load_data(str(root), validation=0.25, batch_size=3, eval_batch_size=2)
    images, _ = everything(data, "validation")
    known = {chw(pixels(f"train/a/{i}", 9, 9)).numpy().tobytes() for i in range(8)}
    assert len(images) == 2
    assert {image.numpy().tobytes() for image in images} < known


def test_a_class_with_one_image_does_not_stop_validation(make_folder):
    root = make_folder({"train/a": 6, "train/b": 1, "val/a": 1})
    data = load_data(str(root), validation=0.3)
    assert len(data.loaders["validation"].dataset) == 2


def test_validation_share_of_large_images(make_folder):
    root = make_folder({"train/a": 4, "train/b": 4, "val/a": 1}, size=(70, 70))
    data = load_data(str(root), validation=0.25, image_size=16)
    assert sorted(everything(data, "validation")[1].tolist()) == [0, 1]
    assert sorted(everything(data, "train")[1].tolist()) == [0, 0, 0, 1, 1, 1]


def test_a_validation_share_comes_from_the_training_split(make_folder, pixels):
    """Where the data have a validation split of their own, the share that was asked for counts."""
    root = make_folder({"train/a": 8, "val/a": 3, "test/a": 1})
    own = raw(load_data(str(root)), "validation")[0]
    assert own == [chw(pixels(f"val/a/{i}", 8, 8)).numpy().tobytes() for i in range(3)]
    data = load_data(str(root), validation=0.25)
    assert len(data.loaders["train"].dataset) == 6
    assert len(data.loaders["validation"].dataset) == 2
    assert not {*raw(data, "validation")[0]} & {*own, *raw(data, "train")[0]}


def test_a_share_goes_with_the_names_of_the_files(make_folder, png, pixels):
    root = make_folder({"cat": 40, "dog": 40}, size=(70, 70))
    before = set(names(load_data(str(root), validation=0.25), "test"))
    moved = root.rename(root.with_name("elsewhere"))
    assert set(names(load_data(str(moved), validation=0.25), "test")) == before
    for i in range(4):
        (moved / f"cat/a{i}.png").write_bytes(png(pixels(str(i), 70, 70)))
    after = load_data(str(moved), validation=0.25)
    assert len(before - set(names(after, "test"))) <= 1  # by numbers about 15 of 20 change sides
    assert labels(after, "test").count(0) == 11


def test_a_folder_with_train_alone(make_folder):
    root = make_folder({"train/a": 10, "train/b": 10})
    with pytest.raises(ValueError, match=r"no test split; it has: train.*--validation 0\.2"):
        load_data(str(root))
    data = load_data(str(root), validation=0.1)
    assert sorted(labels(data, "test")) == [0, 1]
    assert len(labels(data, "train")) == 18


def test_runs_of_older_versions_keep_their_share(make_folder):
    from sklearn.model_selection import train_test_split

    root = make_folder({"train/a": 10, "train/b": 10, "test/a": 1})
    _, held = train_test_split(range(20), test_size=4, stratify=[0] * 10 + [1] * 10, random_state=0)
    data = load_data(str(root), validation=0.2, hold_out="rows")
    images = data.loaders["validation"].dataset.images.images
    every = load_data(str(root), training=False).loaders["train"].dataset.images.images
    assert torch.equal(images, every[held])
    run = Run(root)
    assert run.hold_out == "rows"
    run.info = {"hold_out": "names"}
    assert run.hold_out == "names"


@pytest.mark.parametrize("test", ["test", "test/unknown"])
def test_an_unlabelled_test_folder_is_left_out(make_folder, capsys, test):
    root = make_folder({"train/a": 10, "train/b": 10, "val/a": 3, "val/b": 2, test: 4})
    data = load_data(str(root))
    assert set(data.loaders) == {"train", "test"}
    assert labels(data, "test") == [0, 0, 0, 1, 1]
    told = capsys.readouterr().err
    assert re.search(r"/test has .* no labels; it is left out", told)
    assert "the validation split of" in told
    (root / "val").rename(root / "nothing")
    held = load_data(str(root), validation=0.1)
    assert sorted(labels(held, "test")) == [0, 1]


def test_train_compare_and_eval_with_a_share(flat, tmp_path, capsys):
    common = ("--data", str(flat), "--validation", "0.25", "--epochs", "1", "--device", "cpu")
    common = (*common, "--batch-size", "8", "--compile", "off")
    run = tmp_path / "run"
    assert main(["train", "--model", "resnet8", *common, "--output", str(run), "--json"]) == 0
    result = json.loads(capsys.readouterr().out)
    assert result["test"]["images"] == 10
    assert main(["eval", str(run), "--json"]) == 0
    measured = json.loads(capsys.readouterr().out)
    assert measured.items() >= result["test"].items()  # and more by class
    assert ab.evaluate(run, split="train").images == 30
    assert ab.evaluate(run, str(flat), validation=0.0).images == 40
    assert ab.evaluate(run, validation=0.5).images == 20
    out = tmp_path / "compared"
    words = ["compare", "--model", "resnet8", "--blocks", "none", "--seeds", "1", *common]
    assert main([*words, "--output", str(out), "--json"]) == 0
    assert ab.evaluate(out / "none-s0").images == 10
    capsys.readouterr()
    assert main(["train", "--model", "resnet8", "--data", str(flat)]) == 2
    assert "--validation 0.2" in capsys.readouterr().err


NOTHING = {
    "minus one": [-1] * 4,
    "null": [None] * 4,
    "fractions": [float("nan")] * 4,
    "no text": [""] * 4,
}


@pytest.fixture
def unlabelled(make_parquet, encoded):
    """`unlabelled(kind, extra)`: 4 training images, and 4 in a test split without labels."""

    def make(kind: str, **extra):
        text = kind == "no text"
        train = {"img": encoded, "label": ["x", "y", "x", "y"] if text else [0, 1, 0, 1]}
        test = {"img": encoded, "id": [7, 8, 9, 10]}
        if kind != "column missing":
            test["label"] = NOTHING[kind]
        files = {f"{split}.parquet": {**train, **columns} for split, columns in extra.items()}
        return str(make_parquet({"train.parquet": train, "test.parquet": test, **files}))

    return make


@pytest.mark.parametrize("kind", [*NOTHING, "column missing"])
def test_a_test_split_without_labels_is_left_out(unlabelled, capsys, kind):
    root = unlabelled(kind)
    with pytest.raises(ValueError, match=r"test split .*has no label.*--validation 0\.2") as error:
        load_data(root)
    assert "\n" not in str(error.value)
    data = load_data(root, validation=0.5)
    assert labels(data) == [1, 0] or sorted(labels(data)) == [0, 1]
    assert len(labels(data, "train")) == 2
    assert re.search(r"has no label.*; it is left out", capsys.readouterr().err)


def test_the_validation_split_then_is_the_test_split(unlabelled, capsys):
    root = unlabelled("minus one", validation={})
    data = load_data(root)
    assert set(data.loaders) == {"train", "test"}
    assert labels(data) == [0, 1, 0, 1]
    told = capsys.readouterr().err
    assert "all are -1 or missing; it is left out" in told
    assert "the validation split of" in told
    held = load_data(root, validation=0.5)
    assert set(held.loaders) == {"train", "test", "validation"}
    assert labels(held) == [0, 1, 0, 1]


def test_a_validation_split_without_labels_is_left_out(make_parquet, encoded, capsys):
    good = {"img": encoded, "label": [0, 1, 0, 1]}
    files = {"train.parquet": good, "test.parquet": good}
    files["validation.parquet"] = {"img": encoded, "label": [-1] * 4}
    assert set(load_data(str(make_parquet(files))).loaders) == {"train", "test"}
    assert "it is left out" in capsys.readouterr().err


def test_train_and_evaluate_beside_a_test_split_without_labels(make_parquet, tmp_path, png):
    flat = [png(np.full((8, 8, 3), 12 * i, np.uint8)) for i in range(20)]
    files = {
        "train.parquet": {"img": flat, "label": [int(i > 9) for i in range(20)]},
        "test.parquet": {"img": flat, "label": [-1] * 20},
    }
    root = str(make_parquet(files))
    options = {"epochs": 1, "batch_size": 8, "device": "cpu", "compile": "off"}
    with pytest.raises(ValueError, match="no labels"):
        ab.train("resnet8", data=root, output=str(tmp_path / "no"), **options)
    assert not (tmp_path / "no").exists()
    result = ab.train("resnet8", data=root, validation=0.2, output=str(tmp_path / "run"), **options)
    assert result.test.images == 4
    assert ab.evaluate(tmp_path / "run").to_dict() == result.test.to_dict()
    info = json.loads((tmp_path / "run/run.json").read_text())
    assert info["test"]["images"] == 4

"""The lines that a colleague would say, and silence where all is well."""

import os

import pytest
from support.trainings import compare

import accuracy_booster as ab
from accuracy_booster.cli import main
from accuracy_booster.data.batches import Loader
from accuracy_booster.data.images import TensorImages
from accuracy_booster.data.transforms import unchanged
from accuracy_booster.training import resolve
from accuracy_booster.training.advice import advice
from accuracy_booster.training.opening_data import fill_in, open_data

GOOD = {"train/a": 60, "train/b": 60, "val/a": 50, "val/b": 50}
LONG = {"batch_size": 20, "epochs": 20}
LARGE = {"lr": 0.1, "optimizer": "sgd"}
FEW_STEPS = "training images in batches of"

BOTH = {"class_weights": "balanced", "sampling": "balanced"}


def lines(make_folder, folders, **options):
    root = make_folder(folders)
    config = resolve("resnet8", **{"data": str(root), **LONG, **options})
    data = open_data(config)
    return advice(fill_in(config, data), data)


def test_silence_where_all_is_well(make_folder):
    assert not any(FEW_STEPS in x for x in lines(make_folder, GOOD, batch_size=16, epochs=20))
    assert lines(make_folder, GOOD) == []
    config = resolve("resnet8", data="digits", device="cpu")
    data = open_data(config)
    assert advice(fill_in(config, data), data) == []


@pytest.mark.parametrize(
    ("folders", "options", "parts"),
    [
        ({}, {"batch_size": 256, "epochs": 3}, ["1 step an epoch and 3 steps in all", "size 16"]),
        ({}, {"batch_size": 120, "epochs": 300}, ["--batch_size 16 makes 2,100 steps"]),
        ({}, {"batch_size": 16, "epochs": 2}, ["14 steps in all", "--epochs 29 makes 203"]),
        ({}, {"batch_size": 50, "epochs": 900}, ["20 of 120", "left out", "size 40 uses all"]),
        ({"train/a": 2}, {}, ["class a has no more than 2 training images"]),
        ({"train/a": 6}, {}, ["b has 60 training images and a 6, 10 times fewer", "--sampling"]),
        ({"train/a": 6}, BOTH, ["class_weights=balanced and sampling=balanced both", "give one"]),
        ({"val/a": 10, "val/b": 10}, {}, ["the test split has 20 images: one of them is 5 points"]),
        ({"val/a": 0, "val/b": 100}, {}, ["class a has no test image"]),
        ({}, {"weights": "w.pth", **LARGE}, ["lr=0.1 is large for trained weights", "--lr 0.01"]),
    ],
)  # fmt: skip
def test_a_line_for_each(make_folder, weights_file, monkeypatch, folders, options, parts):
    if "weights" in options:
        options = {**options, "weights": str(weights_file[1])}
    told = lines(make_folder, {**GOOD, **folders}, **options)
    assert any(all(part in line for part in parts) for line in told), told


def test_a_small_network_that_sees_parts_of_photographs(make_folder):
    root = str(make_folder(GOOD, (90, 120)))
    for options, told in (
        ({"image_size": 32}, True),
        ({"image_size": 32, "augment": "none"}, False),
        ({"image_size": 96}, False),
    ):
        config = resolve("resnet8", data=root, **LONG, **options)
        data = open_data(config)
        found = advice(fill_in(config, data), data)
        assert any("at 32 x 32 pixels little is left" in line for line in found) == told, options


def test_what_is_asked_for_is_not_advised(make_folder):
    unbalanced = {**GOOD, "train/a": 6}
    assert any("unbalanced" in line for line in lines(make_folder, unbalanced))
    for name in ("class_weights", "sampling"):
        assert not any(
            "unbalanced" in x for x in lines(make_folder, unbalanced, **{name: "balanced"})
        )


def test_a_class_that_only_its_parquet_schema_knows(make_parquet, png, pixels):
    from support.datasets import class_label, structs

    features = {"img": {"_type": "Image"}, "label": class_label()}
    columns = {"img": structs([png(pixels("x", 8, 8))] * 8), "label": [0, 1] * 4}
    root = make_parquet({"train.parquet": columns, "test.parquet": columns}, features)
    config = resolve("resnet8", data=str(root), batch_size=4)
    data = open_data(config)
    (line,) = [x for x in advice(fill_in(config, data), data) if "no training image" in x]
    assert line.startswith("class cow has no training image")


def test_one_class_is_refused(make_folder, tmp_path):
    root = make_folder({"train/a": 8, "train/b": 0, "val/a": 4})
    with (
        pytest.warns(UserWarning, match="class folder b .* is empty.*output for it.*remove"),
        pytest.raises(ValueError, match=r"all 8 training images .* of one class, 'a'.*needs two"),
    ):
        ab.train("resnet8", data=root, output=tmp_path / "run", device="cpu")
    assert not (tmp_path / "run").exists()


def test_processes_that_load_images(make_folder, monkeypatch, recwarn):
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {0, 1}, raising=False)
    root = make_folder(GOOD, size=(70, 70))
    config = resolve("resnet8", data=str(root), workers=3, **LONG)
    data = open_data(config)
    (line,) = advice(fill_in(config, data), data)
    assert line == "3 processes load images, and 2 cores can be used: --workers 2 may be faster"
    images = TensorImages(data.loaders["test"].dataset[0][0][None], [0])
    made = Loader(images, unchanged, 1, shuffled=False, workers=500)._start([])
    made.check_worker_number_rationality()  # torch calls it when it starts them
    assert not recwarn.list


def test_train_and_compare_say_each_line_once(make_folder, tmp_path, capsys):
    root = make_folder({"train/a": 8, "train/b": 8, "val/a": 4, "val/b": 4})
    given = {"data": str(root), "batch_size": 8, "epochs": 1}
    compare(tmp_path / "c", blocks=["none", "ab"], **given)
    compared = capsys.readouterr().err
    words = [f"--{k}={v}" for k, v in {**given, "device": "cpu", "compile": "off"}.items()]
    assert main(["train", "--model", "resnet8", *words, "--output", str(tmp_path / "r")]) == 0
    for told in (compared, capsys.readouterr().err):
        assert told.count(FEW_STEPS) == told.count("one of them is 12.5 points") == 1
    assert main(["train", "--resume", str(tmp_path / "r"), "--epochs", "2"]) == 0
    assert FEW_STEPS not in capsys.readouterr().err

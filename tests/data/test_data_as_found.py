"""Data as they lie on people's disks: leftovers, links, file kinds, splits, labels, class names."""

# N batch, C channels, H W space

from __future__ import annotations

import json
import os
import re
import unicodedata
import warnings
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

import accuracy_booster as ab
from accuracy_booster.cli import main
from accuracy_booster.data import load_data
from accuracy_booster.data.image_files import extensions
from accuracy_booster.training.run_directory import Run


def names(data, split: str) -> list[str]:
    """The files of a split below its folder, from the data set itself."""
    images = data.loaders[split].dataset.images
    if hasattr(images, "indices"):
        return [images.images.names[i] for i in images.indices]
    return [images.names[i] for i in range(len(images))]


def labels(data, split: str) -> list[int]:
    return data.loaders[split].dataset.images.labels.tolist()


def sentence(error) -> str:
    text = str(error.value)
    assert "\n" not in text
    assert len(text) < 700, text
    return text


def quiet(*args, **options):
    """load_data where no remark is due."""
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        return load_data(*args, **options)


# leftovers and links

LEFTOVERS = (
    *("train/a/._000.png", "train/a/.hidden.png", "train/a/.ipynb_checkpoints/000.png"),
    *("train/__MACOSX/a/._000.png", "train/__MACOSX/x.png", "__MACOSX/train/a/000.png"),
    *("train/@eaDir/000.png/SYNOPHOTO_THUMB_M.png", "train/a/@eaDir/000.png", "train/.git/x.png"),
    *("train/a/Thumbs.db", "train/Desktop.ini", "train/a/desktop.ini", "train/.DS_Store"),
    *("train/$RECYCLE.BIN/x.png", "val/.ipynb_checkpoints/a/000.png", "train/a/__MACOSX/x.png"),
)


def test_leftovers_of_other_programs_are_no_images_and_no_classes(make_folder, png, pixels):
    root = make_folder({"train/a": 2, "train/b": 2, "val/a": 1, "val/b": 1})
    for name in LEFTOVERS:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(png(pixels(name, 8, 8)))
    data = quiet(str(root))
    assert data.classes == ("a", "b")
    assert names(data, "train") == ["a/000.png", "a/001.png", "b/000.png", "b/001.png"]
    assert names(data, "test") == ["a/000.png", "b/000.png"]


def test_a_pipe_is_not_opened_and_a_folder_called_like_an_image_is_a_folder(
    make_folder, png, pixels
):
    root = make_folder({"train/a": 1, "train/b/x.jpg": 1, "val/a": 1})
    os.mkfifo(root / "train/a/b.png")
    os.mkfifo(root / "train/b.png")
    os.mkfifo(root / "x.parquet")
    data = quiet(str(root))
    assert names(data, "train") == ["a/000.png", "b/x.jpg/000.png"]


def test_loops_of_links_are_not_followed(make_folder):
    """The 168 images of 8: every folder counts once, and a link upwards leads nowhere."""
    root = make_folder({"train/a": 3, "train/b/deep": 3, "val/a": 1, "val/b": 1})
    for link, target in (
        *(("train/a/self", "."), ("train/a/up", ".."), ("train/a/other", "../b")),
        *(("train/b/other", "../a"), ("train/b/deep/up", "../../.."), ("train/loop", ".")),
        *(("train/top", ".."), ("val/a/train", "../../train/../val"), ("loop", ".")),
    ):
        (root / link).symlink_to(target, target_is_directory=True)
    data = quiet(str(root))
    assert data.classes == ("a", "b")
    assert labels(data, "train") == [0, 0, 0, 1, 1, 1]
    assert labels(data, "test") == [0, 1]


def test_links_out_of_the_data_set_are_followed_once(make_folder, tmp_path):
    pool = make_folder({"x": 2, "y": 1}, name="pool")
    root = make_folder({"train": 0, "train/b": 1, "val/cat": 1})
    for link, target in (("cat", "x"), ("b/more", "y"), ("b/again", "y")):
        (root / "train" / link).symlink_to(pool / target, target_is_directory=True)
    data = quiet(str(root))
    assert data.classes == ("b", "cat")
    assert labels(data, "train") == [0, 0, 1, 1]
    (root / "train/dog").symlink_to(pool / "x", target_is_directory=True)
    with pytest.warns(UserWarning, match="dog is a link to the same folder as cat"):
        assert load_data(str(root)).classes == ("b", "cat")


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


def test_a_folder_that_cannot_be_read_is_named(make_folder, monkeypatch):
    root = make_folder({"train/a": 1, "train/b": 1, "val/a": 1})
    real = os.scandir

    def closed(path):
        if str(path).endswith("train/b"):
            raise PermissionError(13, "Permission denied", str(path))
        return real(path)

    monkeypatch.setattr(os, "scandir", closed)
    with pytest.raises(ValueError, match=r"cannot read the folder .*train/b: Permission denied"):
        load_data(str(root))


# kinds of files

KINDS = {
    **{".jfif": "JPEG", ".JPE": "JPEG", ".gif": "GIF", ".webp": "WEBP", ".tif": "TIFF"},
    **{".TIFF": "TIFF", ".bmp": "BMP", ".PNG": "PNG", ".ppm": "PPM", ".jp2": "JPEG2000"},
    **{".tga": "TGA", ".avif": "AVIF", ".ico": "ICO"},
}


def test_every_kind_that_pillow_reads_counts(make_folder, png):
    from PIL import features

    kinds = {k: form for k, form in KINDS.items() if k != ".avif" or features.check("avif")}
    flat = np.full((16, 16, 3), (200, 90, 30), np.uint8)
    root = make_folder({f"{split}/{kind[1:]}": 0 for split in ("train", "val") for kind in kinds})
    for split in ("train", "val"):
        for kind, form in kinds.items():
            (root / split / kind[1:] / f"x{kind}").write_bytes(png(flat, form))
    data = quiet(str(root))
    assert labels(data, "train") == list(range(len(kinds)))
    images, _ = next(iter(data.loaders["test"]))
    wanted = torch.tensor([200, 90, 30])[None, :, None, None]
    assert (images.int() - wanted).abs().max() <= 6


def test_kinds_are_those_that_pillow_opens():
    from PIL import Image

    assert {".jpg", ".png", ".gif", ".webp", ".jfif", ".bmp", ".tif"} <= extensions()
    assert not {".pdf", ".mpg", ".eps", ".h5", ".txt", ".heic"} & extensions()
    assert all(Image.registered_extensions()[e] in Image.OPEN for e in extensions())


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


# names


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


# splits

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


def test_images_beside_class_folders_are_counted(make_folder):
    root = make_folder({"train/a": 1, "train": 2, "val/a": 1})
    with pytest.warns(UserWarning, match="train: 2 images beside its class folders"):
        assert labels(load_data(str(root)), "train") == [0]


@pytest.fixture
def flat(make_folder) -> Path:
    """Class folders whose colours a network can tell, and no splits."""
    colours = {"dark": 30, "light": 220}
    pictures = {
        name: [np.full((8, 8, 3), level + i, np.uint8) for i in range(20)]
        for name, level in colours.items()
    }
    return make_folder(pictures, name="flat")


def test_train_compare_and_eval_with_a_share(flat, tmp_path, capsys):
    common = ("--data", str(flat), "--validation", "0.25", "--epochs", "1", "--device", "cpu")
    common = (*common, "--batch-size", "8", "--compile", "off")
    run = tmp_path / "run"
    assert main(["train", "--model", "resnet8", *common, "--output", str(run), "--json"]) == 0
    result = json.loads(capsys.readouterr().out)
    assert result["test"]["images"] == 10
    assert main(["eval", str(run), "--json"]) == 0
    measured = json.loads(capsys.readouterr().out)
    assert measured == result["test"]
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


def test_help_names_the_options(capsys):
    for command in ("train", "compare", "eval"):
        with pytest.raises(SystemExit):
            main([command, "--help"])
        told = capsys.readouterr().out
        for option in ("--validation", "--interpolation", "--crop_pct", "--crop_mode"):
            assert option in told, (command, option)


# names of classes and outputs


class Colours(nn.Module):
    """A network of `count` outputs: dark images are class `dark`, light ones class `light`."""

    def __init__(self, count: int, dark: int, light: int):
        super().__init__()
        self.count, self.dark, self.light = count, dark, light

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        logits = torch.zeros(len(x), self.count)
        light = x.mean((1, 2, 3)) > 0
        logits[torch.arange(len(x)), torch.where(light, self.light, self.dark)] = 9.0
        return logits


def renamed(root: Path, dark: str, light: str) -> str:
    for old, new in (("dark", dark), ("light", light)):
        (root / old).rename(root / new)
    return str(root)


@pytest.mark.parametrize(
    ("outputs", "dark", "light", "places"),
    [
        (1000, "n02123045", "n01443537", (281, 1)),  # in the other order than their numbers
        (1000, "tabby", "Goldfish", (281, 1)),
        (1000, "tiger_cat", "great_white_shark", (282, 2)),
        (1000, "tabby, tabby cat", "goldfish, Carassius auratus", (281, 1)),
        (1000, "n02123045_tabby", "1 n01443537 goldfish"[2:], (281, 1)),
        (1000, "207", "9", (207, 9)),
        (11821, "n02123045", "n01443537", None),
        (2, "dark", "light", (0, 1)),
    ],
)
def test_classes_are_found_by_their_names(flat, outputs, dark, light, places):
    if places is None:
        from timm.data import ImageNetInfo

        known = ImageNetInfo("imagenet-12k").label_names()
        places = known.index(dark), known.index(light)
    metrics = ab.evaluate(Colours(outputs, *places), renamed(flat, dark, light), device="cpu")
    assert metrics.top1 == 100
    assert metrics.images == 40


def test_names_of_outputs_can_be_given(flat):
    known = [f"class {i}" for i in range(7)]
    known[5], known[3] = "dark", "light"
    assert ab.evaluate(Colours(7, 5, 3), str(flat), classes=known, device="cpu").top1 == 100


@pytest.mark.parametrize(
    ("dark", "light", "outputs", "message"),
    [
        ("dark", "pale", 1000, r"1000 outputs and .* has 2 classes \(dark, pale\).*classes="),
        ("dark", "light", 7, "7 outputs.*do not tell which outputs are theirs"),
        ("tabby", "pale", 1000, "ImageNet's.*not one class of ImageNet each: pale; .*WordNet"),
        ("tabby", "crane", 1000, "not one class of ImageNet each: crane"),  # a bird and a machine
        ("tabby", "tabby cat", 1000, "two names of the same class"),
        ("0", "1000", 1000, "do not tell which"),
        ("dark", "light", 1, "2 classes, more than the head's 1"),
    ],
)
def test_names_that_tell_no_outputs_are_refused(flat, dark, light, outputs, message):
    model = Colours(outputs, 0, 0).train()
    with pytest.raises(ValueError, match=message) as error:
        ab.evaluate(model, renamed(flat, dark, light), device="cpu")
    sentence(error)
    assert model.training, "evaluate left the module in another mode"


def test_a_run_on_wordnet_ids_is_measured_on_words(make_folder):
    root = str(make_folder({"test/tabby": 1, "test/goldfish": 2}))
    run = ("n01440764", "n01443537", "n02123045")
    data = load_data(root, splits=("test",), classes=run)
    assert labels(data, "test") == [1, 1, 2]
    with pytest.raises(ValueError, match="goldfish, tabby, that are not among the 2"):
        load_data(root, splits=("test",), classes=("cat", "dog"))

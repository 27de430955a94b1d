"""Every way into data - built-in names, folders, Parquet - against pixels known beforehand."""

# N batch, C channels, H W space

from __future__ import annotations

import hashlib
import pickle
import re
import urllib.error
import urllib.request
from collections import Counter
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from accuracy_booster.data import Data, load_data, normalise
from accuracy_booster.data.images import TensorImages
from accuracy_booster.data.sources import find


@contextmanager
def one_line(pattern: str):
    """A ValueError of one line that matches, whose text is no longer than a user will read."""
    with pytest.raises(ValueError, match=pattern) as caught:
        yield caught
    message = str(caught.value)
    assert "\n" not in message
    assert len(message) < 700, message


def chw(picture: np.ndarray) -> torch.Tensor:
    """[H, W, C] -> [C, H, W]"""
    return torch.from_numpy(picture).permute(2, 0, 1)


def everything(data: Data, split: str) -> tuple[torch.Tensor, torch.Tensor]:
    """The split in one pass of its loader."""
    batches = list(data.loaders[split])
    return torch.cat([images for images, _ in batches]), torch.cat(
        [labels for _, labels in batches]
    )


def raw(data: Data, split: str) -> tuple[list[bytes], list[int]]:
    """The split's pixels and labels, without augmentation and in the order of the data set."""
    items = [data.loaders[split].dataset.images[i] for i in range(len(data.loaders[split].dataset))]
    return [image.numpy().tobytes() for image, _ in items], [label for _, label in items]


def in_memory(data: Data, split: str) -> bool:
    return isinstance(data.loaders[split].dataset.images, TensorImages)


# digits


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


# folders


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


def test_only_the_wanted_splits_are_read(make_folder):
    root = make_folder({"train/a": [b"broken"], "val/a": 1, "test/a": 1})
    assert set(load_data(str(root), splits=("test",)).loaders) == {"test"}
    with one_line("none of .*train can be read"):  # one that can would do: the rest is left out
        load_data(str(root), splits=("train",))


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


@pytest.mark.parametrize(
    ("folders", "options", "message"),
    [
        ({}, {}, "holds no images.*no folders"),
        ({"cat": 1, "dog": 1}, {}, "no test split.*class folders.*--validation 0.2"),
        ({"train/a": 0, "val/a": 1}, {}, "train holds no images"),
        ({"train/a": 1, "val/a": 0}, {}, "val holds no images"),
        ({"train": 1, "val": 1}, {}, "train has no class folders"),
        ({"train/a": 1}, {}, "no test split.*train"),
        ({"val/a": 1}, {}, "no train split.*test"),
        ({"train/a": 1, "val/a": 1, "val/b": 1}, {}, "classes that train/ has not: b"),
        ({"train/a": 1, "val/a": 1}, {"splits": ("train", "tset")}, "no tset split"),
        ({"train/a": 1, "val/a": 1}, {"augment": "flip"}, "'flip'.*crop_flip"),
        ({"train/a": 1, "val/a": 1}, {"image_size": 0}, "image_size=0"),
        ({"train/a": 1, "val/a": 1}, {"mean": (0.5,)}, r"mean=\[0.5\].*3 values"),
        ({"train/a": 1, "val/a": 1}, {"std": (0.5, 1.0)}, r"std=\[0.5, 1.0\].*3 values"),
    ],
)
def test_bad_folders_and_options(make_folder, folders, options, message):
    with one_line(message):
        load_data(str(make_folder(folders)), **options)


def test_a_folder_of_other_files_holds_no_images(make_folder):
    root = make_folder({"train/a": 0, "val/a": 1})
    (root / "train/a/notes.txt").write_text("no image")
    with one_line("train holds no images"):
        load_data(str(root))


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("digit", "unknown data set 'digit'.*digits"),
        ("cifar-10", "unknown data set 'cifar-10'.*cifar10"),
        ("no/such/place", "unknown data set.*cifar100"),
    ],
)
def test_unknown_data_gives_the_nearest(name, message):
    with one_line(message):
        load_data(name)


def test_a_file_is_no_data_set(make_folder):
    root = make_folder({"train/a": 1})
    with one_line("is a file; give the directory"):
        load_data(str(root / "train/a/000.png"))


def test_a_path_is_as_good_as_its_text(make_folder):
    root = make_folder({"train/a": 1, "val/a": 1})
    assert load_data(root).classes == ("a",)
    with one_line("unknown data set"):
        load_data(root / "missing")


# sizes


def test_small_images_keep_their_size_and_are_in_memory(make_folder):
    root = make_folder({"train/a": 2, "val/a": 2}, size=(13, 64))
    data = load_data(str(root))
    assert data.image_size == (13, 64)
    assert data.augment == "crop_flip"
    assert in_memory(data, "train")
    assert in_memory(data, "test")
    assert everything(data, "train")[0].shape == (2, 3, 13, 64)


@pytest.mark.parametrize("size", [(65, 32), (300, 250)])
def test_large_images_are_cropped_to_224_and_stay_encoded(make_folder, size):
    data = load_data(str(make_folder({"train/a": 2, "val/a": 2}, size=size)))
    assert data.image_size == (224, 224)
    assert data.augment == "resized_crop"
    for split in ("train", "test"):
        assert not in_memory(data, split)
        assert everything(data, split)[0].shape == (2, 3, 224, 224)


@pytest.mark.parametrize(("option", "size"), [(16, (16, 16)), ((12, 20), (12, 20))])
@pytest.mark.parametrize("native", [(8, 8), (80, 100)])
@pytest.mark.parametrize("augment", ["auto", "crop", "crop_flip", "resized_crop", "none"])
def test_image_size(make_folder, option, size, native, augment):
    root = make_folder({"train/a": 2, "val/a": 2}, size=native)
    data = load_data(str(root), image_size=option, augment=augment)
    assert data.image_size == size
    for split in ("train", "test"):
        images, _ = everything(data, split)
        assert images.shape == (2, 3, *size)
        assert images.dtype == torch.uint8


def test_small_images_of_several_sizes_are_treated_as_large_ones(make_folder, pixels):
    both = [pixels("a", 8, 8), pixels("b", 9, 8)]
    data = load_data(str(make_folder({"train/a": both, "val/a": both})))
    assert data.image_size == (224, 224)
    assert everything(data, "test")[0].shape == (2, 3, 224, 224)


def test_one_small_image_of_another_size_among_many(make_folder, pixels):
    """Too rare to be among the images that are looked at to decide what the data are like."""
    pictures = [pixels(str(i), 8, 8) for i in range(80)]
    pictures[1] = pixels("odd", 12, 10)
    data = load_data(str(make_folder({"train/a": pictures, "val/a": pictures})))
    for split in ("train", "test"):
        assert everything(data, split)[0].shape == (80, 3, *data.image_size)


def test_test_images_of_another_size_than_the_training_images(make_folder, pixels):
    root = make_folder({"train/a": [pixels("a", 8, 8)], "val/a": [pixels("b", 20, 20)]})
    data = load_data(str(root))
    for split in ("train", "test"):
        assert everything(data, split)[0].shape[2:] == data.image_size


def test_large_test_images_are_centre_crops(make_folder):
    """As torchvision's and timm's recipes: the shorter edge to 256, the centre 224."""
    rows, columns = np.mgrid[0:400, 0:300]
    picture = np.stack([columns * 0.8, rows * 0.6, 77 + 0 * rows], axis=2).astype(np.uint8)
    data = load_data(str(make_folder({"train/a": 1, "val/a": [picture]}, size=(100, 100))))
    image = everything(data, "test")[0][0]
    resized = Image.fromarray(picture).resize((256, 341), Image.Resampling.BILINEAR)
    expected = chw(np.array(resized.crop((16, 58, 240, 282))))
    assert (image.int() - expected.int()).abs().max() <= 2


@pytest.mark.parametrize("size", [(32, 96), (96, 32)])
def test_test_images_for_an_oblong_network_have_no_black_borders(make_folder, size):
    white = Image.new("RGB", (200, 200), "white")
    data = load_data(str(make_folder({"train/a": [white], "val/a": [white]})), image_size=size)
    for split in ("train", "test"):
        assert everything(data, split)[0].min() == 255


# formats


def test_other_colour_modes_become_rgb(make_folder, pixels):
    rgb = Image.fromarray(pixels("rgb", 8, 8))
    alpha = Image.fromarray(pixels("alpha", 8, 8)[..., 0])
    grey = rgb.convert("L")
    with_alpha = rgb.copy()
    with_alpha.putalpha(alpha)
    share = np.array(alpha)[..., None] / 255
    over_white = np.array(rgb) * share + 255 * (1 - share)
    palette = rgb.quantize(16)
    colours = np.array(palette.getpalette(), np.uint8).reshape(-1, 3)
    black_white = Image.fromarray(np.array(grey) > 100)
    pictures = [rgb, grey, with_alpha, palette, black_white]
    root = make_folder({"train/a": 1, "val/a": pictures})
    images, _ = everything(load_data(str(root)), "test")
    assert images.shape == (5, 3, 8, 8)
    expected = [
        np.array(rgb),
        np.array(grey)[..., None].repeat(3, 2),
        over_white,
        colours[np.array(palette)],
        np.where(np.array(black_white), 255, 0).astype(np.uint8)[..., None].repeat(3, 2),
    ]
    for image, wanted in zip(images, expected, strict=True):
        slack = 1 if wanted is over_white else 0  # a rounding
        assert (image - chw(wanted).double()).abs().max() <= slack


def broken_files(png) -> dict[str, bytes]:
    noise = np.random.default_rng(0).integers(0, 256, (8, 8, 3), dtype=np.uint8)
    whole = png(noise)
    return {
        "empty": b"",
        "text": b"this is no image",
        "header alone": whole[:33],
        "truncated": whole[: len(whole) // 2],
        "truncated JPEG": png(noise.repeat(8, 0).repeat(8, 1), "JPEG")[:900],
        "damaged": whole[:60] + bytes(20) + whole[80:],
    }


@pytest.mark.parametrize("kind", broken_files(lambda *_: b""))
def test_unreadable_small_image_is_left_out_and_named(make_folder, png, pixels, kind):
    """The rule: what does not decode when small images are read is told, and the rest is used."""
    good = [pixels("0", 8, 8), pixels("2", 8, 8)]
    pictures = [good[0], broken_files(png)[kind], good[1]]
    root = make_folder({"train/a": pictures, "val/a": 1})
    data = load_data(str(root), augment="none")
    if kind == "truncated JPEG":  # its header is whole and says 64x64: images of several sizes
        assert not in_memory(data, "train")
        with pytest.warns(UserWarning, match=re.escape(str(root / "train/a/001.png"))):
            assert len(everything(data, "train")[0]) == 3  # the next image takes its place
        return
    assert in_memory(data, "train")
    (reason,) = data.unreadable
    assert str(root / "train/a/001.png") in reason
    assert "\n" not in reason
    assert raw(data, "train") == ([chw(p).numpy().tobytes() for p in good], [0, 0])


@pytest.mark.parametrize("workers", [0, 1])
def test_unreadable_large_image_is_skipped_and_named(make_folder, png, pixels, workers):
    """The rule: it is found when it is asked for, left out, and a warning of one line names it.

    A worker process must not add its traceback to the line.
    """
    picture = png(pixels("large", 80, 80))
    root = make_folder({"train/a": 1, "val/a": [picture, picture[:9000]]}, size=(80, 80))
    data = load_data(str(root), splits=("test",), workers=workers)
    with pytest.warns(UserWarning, match=re.escape(str(root / "val/a/001.png"))) as warned:
        images, labels = everything(data, "test")
    assert len(images) == len(labels) == 1
    assert len(warned) == 1
    assert "\n" not in str(warned[0].message)
    assert data.unreadable == []


def test_an_image_that_pillow_refuses_for_its_size_is_named(make_folder, png, monkeypatch):
    """DecompressionBombError is neither an OSError nor a ValueError; it is skipped like those."""
    root = make_folder({"train/a": 2, "val/a": 1}, size=(16, 16))
    (root / "train/a/000.png").write_bytes(png(np.zeros((8, 8, 3), np.uint8)))
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 100)
    data = load_data(str(root), splits=("train",))
    (reason,) = data.unreadable
    assert "001.png" in reason
    assert len(everything(data, "train")[0]) == 1


def test_jpegs_and_upper_case_extensions_are_found(make_folder, png, pixels):
    root = make_folder({"train/a": 1, "val/a": 0})
    flat = np.full((8, 8, 3), 90, np.uint8)
    (root / "val/a/x.JPG").write_bytes(png(flat, "JPEG"))
    (root / "val/a/y.webp").write_bytes(png(flat, "WEBP"))
    images, _ = everything(load_data(str(root)), "test")
    assert len(images) == 2
    assert (images.int() - 90).abs().max() <= 2


# Parquet

IMAGE = {"_type": "Image"}
NAMES = ["ant", "bee", "cow"]


def class_label(names=NAMES) -> dict:
    return {"_type": "ClassLabel", "names": list(names)}


def structs(encoded: list[bytes]) -> list[dict]:
    return [{"bytes": data, "path": None} for data in encoded]


@pytest.mark.parametrize("metadata", [True, False])
@pytest.mark.parametrize("struct", [True, False])
@pytest.mark.parametrize(("image", "label"), [("img", "label"), ("image", "fine_label")])
def test_hugging_face_layout(make_parquet, png, pixels, image, label, struct, metadata):
    pictures = [pixels(str(i), 8, 9) for i in range(5)]
    encoded = [png(picture) for picture in pictures]
    columns = {image: structs(encoded) if struct else encoded, label: [0, 2, 1, 2, 0]}
    root = make_parquet(
        {"train-00000-of-00001.parquet": columns, "test-00000-of-00001.parquet": columns},
        {image: IMAGE, label: class_label()} if metadata else None,
    )
    data = load_data(str(root))
    assert data.classes == (tuple(NAMES) if metadata else ("0", "1", "2"))
    assert data.input_size == (3, 8, 9)
    assert in_memory(data, "test")
    images, labels = everything(data, "test")
    assert labels.tolist() == [0, 2, 1, 2, 0]
    for got, picture in zip(images, pictures, strict=True):
        assert torch.equal(got, chw(picture))


@pytest.mark.parametrize(
    "files",
    [
        ("train-00000-of-00002.parquet", "train-00001-of-00002.parquet", "test.parquet"),
        ("train/0000.parquet", "train/0001.parquet", "test/0000.parquet"),
        (
            "data/train-00000-of-00002.parquet",
            "data/train-00001-of-00002.parquet",
            "data/test.parquet",
        ),
        (
            "plain_text/train/0000.parquet",
            "plain_text/train/0001.parquet",
            "plain_text/test/0.parquet",
        ),
        ("train_0.parquet", "train_1.parquet", "validation-00000-of-00001.parquet"),
    ],
)
def test_shards_and_directories(make_parquet, png, pixels, files):
    pictures = [pixels(str(i), 8, 8) for i in range(6)]
    encoded = [png(picture) for picture in pictures]
    rows = [slice(0, 3), slice(3, 5), slice(5, 6)]
    labels = [0, 1, 2, 2, 1, 1]
    content = {
        file: {"img": structs(encoded[part]), "label": labels[part]}
        for file, part in zip(files, rows, strict=True)
    }
    data = load_data(str(make_parquet(content, {"img": IMAGE, "label": class_label()})))
    assert set(data.loaders) == {"train", "test"}
    pixels_in_order, labels_in_order = raw(data, "train")
    assert labels_in_order == labels[:5]
    assert pixels_in_order == [chw(picture).numpy().tobytes() for picture in pictures[:5]]
    assert raw(data, "test")[1] == [1]


def test_parquet_validation_beside_test(make_parquet, png, pixels):
    columns = {"img": [png(pixels("x", 8, 8))], "label": [0]}
    files = {f"{split}.parquet": columns for split in ("train", "validation", "test")}
    assert set(load_data(str(make_parquet(files))).loaders) == {"train", "validation", "test"}


def test_images_beside_the_parquet_files(make_parquet, png, pixels):
    """Hugging Face writes a path instead of bytes where images are not embedded."""
    root = make_parquet({"test.parquet": {"img": [{"bytes": None, "path": "x.png"}], "label": [0]}})
    (root / "x.png").write_bytes(png(pixels("x", 8, 8)))
    images, _ = everything(load_data(str(root), splits=("test",)), "test")
    assert torch.equal(images[0], chw(pixels("x", 8, 8)))


@pytest.fixture
def encoded(png, pixels) -> list[bytes]:
    return [png(pixels(str(i), 8, 8)) for i in range(4)]


def test_text_labels(make_parquet, encoded):
    files = {
        "train.parquet": {"image": encoded, "label": ["cow", "ant", "bee", "ant"]},
        "test.parquet": {"image": encoded[:2], "label": ["cow", "bee"]},
    }
    data = load_data(str(make_parquet(files)))
    assert data.classes == ("ant", "bee", "cow")
    assert raw(data, "train")[1] == [2, 0, 1, 0]
    assert raw(data, "test")[1] == [2, 1]  # numbered as in the training split


def test_text_labels_that_training_lacks(make_parquet, encoded):
    files = {
        "train.parquet": {"image": encoded[:2], "label": ["cow", "ant"]},
        "test.parquet": {"image": encoded[:2], "label": ["cow", "dog"]},
    }
    with one_line("test split .*dog.* not among the 2"):
        load_data(str(make_parquet(files)))


def test_text_labels_that_are_numbers(make_parquet, encoded):
    """ "10" sorts before "2": a label is its text, not its place among another split's."""
    train = [str(i) for i in range(12)]
    files = {
        "train.parquet": {"image": encoded * 3, "label": train},
        "test.parquet": {"image": encoded[:3], "label": ["0", "1", "2"]},
    }
    data = load_data(str(make_parquet(files)))
    for split, texts in (("train", train), ("test", ["0", "1", "2"])):
        assert [data.classes[label] for label in raw(data, split)[1]] == texts


def test_dictionary_encoded_text_labels(make_parquet, encoded):
    """What pandas writes for a categorical column."""
    import pyarrow as pa

    labels = pa.array(["b", "a", "b", "a"]).dictionary_encode()
    root = make_parquet({"test.parquet": {"image": encoded, "label": labels}})
    data = load_data(str(root), splits=("test",), label_column="label")
    assert data.classes == ("a", "b")
    assert raw(data, "test")[1] == [1, 0, 1, 0]


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


def test_which_of_two_label_columns(make_parquet, encoded):
    columns = {"img": encoded, "fine_label": [3, 2, 1, 0], "coarse_label": [1, 1, 0, 0]}
    features = {
        "img": IMAGE,
        "fine_label": class_label("wxyz"),
        "coarse_label": class_label(("one", "two")),
    }
    for name, kinds in (("with", features), ("without", None)):
        root = str(make_parquet({"test.parquet": columns}, kinds, name=name))
        with one_line("fine_label, coarse_label.*--label_column"):
            load_data(root, splits=("test",))
        data = load_data(root, splits=("test",), label_column="coarse_label")
        assert raw(data, "test")[1] == [1, 1, 0, 0]
        assert len(data.classes) == 2
        with one_line("'fine_labels'.*nearest: fine_label"):
            load_data(root, splits=("test",), label_column="fine_labels")


def test_which_of_two_image_columns(make_parquet, encoded):
    columns = {"left": encoded, "right": encoded[::-1], "label": [0, 1, 2, 3]}
    root = str(make_parquet({"test.parquet": columns}))
    with one_line("left, right.*--image_column"):
        load_data(root, splits=("test",))
    right, left = (
        raw(load_data(root, splits=("test",), image_column=column), "test")[0]
        for column in ("right", "left")
    )
    assert right == left[::-1]
    assert len(set(left)) == 4
    with one_line("'write'.*nearest: right"):
        load_data(root, splits=("test",), image_column="write")


@pytest.mark.parametrize(
    ("columns", "features", "classes"),
    [
        ({"id": [7, 8, 9, 9], "label": [1, 0, 1, 0]}, None, ("0", "1")),
        ({"caption": list("abcd"), "kind": [1, 0, 1, 0]}, None, ("0", "1")),
        ({"id": [0, 1, 2, 3], "label": ["y", "x", "y", "x"]}, None, ("x", "y")),
        ({"label": [7, 8, 9, 9], "kind": [1, 0, 1, 0]}, {"kind": class_label("xy")}, ("x", "y")),
        ({"mask": [b"mask"] * 4, "label": [1, 0, 1, 0]}, None, ("0", "1")),
    ],
    ids=[
        *("number called label beside id", "number beside text", "text called label beside id"),
        *("ClassLabel beside label", "image beside mask"),
    ],
)
def test_which_column_is_which(make_parquet, encoded, columns, features, classes):
    """The schema of `datasets` comes first, then the names "image" and "label", then the types."""
    root = make_parquet({"test.parquet": {"image": encoded, **columns}}, features)
    data = load_data(str(root), splits=("test",))
    assert data.classes == classes
    assert raw(data, "test")[1] == [1, 0, 1, 0]


def test_an_image_of_the_schema_comes_before_a_column_called_image(make_parquet, encoded):
    columns = {"image": [b"a checksum"] * 4, "photo": encoded, "label": [1, 0, 1, 0]}
    root = make_parquet({"test.parquet": columns}, {"photo": IMAGE})
    assert everything(load_data(str(root), splits=("test",)), "test")[0].shape == (4, 3, 8, 8)


@pytest.mark.parametrize(
    ("columns", "features", "message"),
    [
        ({"label": [-1, 0, 1, 2]}, None, "labels -1 to 2.*0 to 2"),
        ({"label": [-1, -1, -1, -1]}, None, "has no labels: .*all are -1"),
        ({"label": [0, 1, 2, 3]}, {"img": IMAGE, "label": class_label()}, "labels 0 to 3.*0 to 2"),
        ({"label": [0, 1, None, 2]}, None, "'label' .*without a label"),
        ({}, None, "which Parquet column holds the label.*none fits"),
        ({"label": [0.0, 1.0, 0.5, 2.0]}, None, "'label' .*holds 0.5.*class number is whole"),
    ],
)
def test_bad_labels(make_parquet, encoded, columns, features, message):
    root = make_parquet({"test.parquet": {"img": encoded, **columns}}, features)
    with one_line(message):
        load_data(str(root), splits=("test",))


@pytest.mark.parametrize(
    ("image", "label", "named"),
    [
        ("img", "weight", "weight"),
        ("img", "img", "img"),
        ("img", "also", "also"),
        ("weight", "label", "weight"),
        ("label", "fine", "label"),
        ("label", "label", "label"),
    ],
)
def test_columns_that_cannot_hold_what_is_asked(make_parquet, encoded, image, label, named):
    """Halves are no classes (0.5 is not class 0), and neither are images; numbers are no images."""
    columns = {
        **{"img": encoded, "also": structs(encoded)},
        **{"label": [0, 1, 0, 1], "fine": [0, 1, 2, 3], "weight": [0.5, 0.2, 1.5, 0.0]},
    }
    root = make_parquet({"test.parquet": columns})
    with one_line(named):
        data = load_data(str(root), splits=("test",), image_column=image, label_column=label)
        everything(data, "test")


def test_numbers_far_apart_are_no_classes(make_parquet, encoded):
    """A head of a million outputs for four images; with 2**40 the process would be killed."""
    root = make_parquet({"test.parquet": {"img": encoded, "label": [0, 1, 2, 1_000_000]}})
    with one_line("label"):
        load_data(str(root), splits=("test",))


def test_parquet_without_an_image_column(make_parquet):
    with one_line("which Parquet column holds the image.*--image_column.*columns: label"):
        load_data(str(make_parquet({"test.parquet": {"label": [0]}})), splits=("test",))


@pytest.mark.parametrize("files", [("a.parquet", "b.parquet"), ("part/0000.parquet",)])
def test_parquet_files_without_names_of_splits(make_parquet, encoded, files):
    root = make_parquet({file: {"img": encoded, "label": [0, 1, 2, 3]} for file in files})
    with one_line("none is named train, val or test"):
        load_data(str(root))


def test_two_configurations_are_not_mixed(make_parquet, encoded):
    """A clone of a Hub data set can hold several: the same images, each with other labels."""
    files = {
        "fine/test-00000-of-00001.parquet": {"img": encoded, "label": [0, 1, 2, 3]},
        "coarse/test-00000-of-00001.parquet": {"img": encoded, "label": [0, 0, 1, 1]},
    }
    root = make_parquet(files)
    with one_line("coarse.*fine"):
        load_data(str(root), splits=("test",))
    assert raw(load_data(str(root / "coarse"), splits=("test",)), "test")[1] == [0, 0, 1, 1]


def test_parquet_missing_split(make_parquet, encoded):
    root = make_parquet({"train.parquet": {"img": encoded, "label": [0, 1, 2, 3]}})
    with one_line("no test split; it has: train"):
        load_data(str(root))


def test_parquet_without_rows(make_parquet):
    import pyarrow as pa

    empty = {"img": pa.array([], pa.binary()), "label": pa.array([], pa.int64())}
    with one_line("test split .*holds no images"):
        load_data(str(make_parquet({"test.parquet": empty})), splits=("test",))


def damaged_parquet(whole: bytes) -> dict[str, bytes]:
    return {
        "empty": b"",
        "text": b"this is no Parquet file",
        "truncated": whole[:-30],
        "first page zero": whole[:4] + bytes(40) + whole[44:],
        "footer": whole[:-60] + bytes(40) + whole[-20:],
    }


@pytest.mark.parametrize("kind", damaged_parquet(b""))
def test_corrupt_parquet(make_parquet, encoded, kind):
    root = make_parquet({"test.parquet": {"img": encoded, "label": [0, 1, 2, 3]}})
    file = root / "test.parquet"
    file.write_bytes(damaged_parquet(file.read_bytes())[kind])
    with one_line("Parquet"):
        load_data(str(root), splits=("test",))


def test_shards_that_do_not_fit_together(make_parquet, encoded):
    files = {
        "test-0.parquet": {"img": encoded, "label": [0, 1, 2, 3]},
        "test-1.parquet": {"img": encoded, "label": ["a", "b", "c", "d"]},
    }
    with one_line("cannot read the Parquet files"):
        load_data(str(make_parquet(files)), splits=("test",))


@pytest.mark.parametrize("metadata", [b"{broken", b'{"info": null}'])
def test_foreign_metadata_is_no_obstacle(make_parquet, encoded, metadata):
    """It is a hint about types: without it the columns are told by their types and names."""
    import pyarrow.parquet as pq

    root = make_parquet({"test.parquet": {"img": encoded, "label": [0, 1, 0, 1]}})
    file = root / "test.parquet"
    table = pq.read_table(file).replace_schema_metadata({b"huggingface": metadata})
    pq.write_table(table, file)
    assert load_data(str(root), splits=("test",)).classes == ("0", "1")


@pytest.mark.parametrize("bad", [b"no image", b"", None], ids=["garbage", "empty", "null"])
def test_corrupt_image_bytes_name_the_row(make_parquet, encoded, bad):
    images = structs([*encoded[:2], bad, encoded[3]])
    root = make_parquet({"test.parquet": {"img": images, "label": [0, 1, 2, 3]}})
    data = load_data(str(root), splits=("test",))
    (reason,) = data.unreadable  # the rule: left out, and named
    assert re.search("test.*row 2", reason)
    assert raw(data, "test")[1] == [0, 1, 3]
    assert data.classes == ("0", "1", "2", "3")


def test_real_cifar10(shared):
    import io

    import pyarrow.parquet as pq

    root = shared / "data/cifar10"
    if not root.is_dir():
        pytest.skip(f"needs {root}, which is absent")
    data = load_data(str(root), splits=("test",))
    words = "airplane automobile bird cat deer dog frog horse ship truck"
    assert data.classes == tuple(words.split())
    assert data.input_size == (3, 32, 32)
    assert in_memory(data, "test")
    images = data.loaders["test"].dataset.images
    assert images.images.shape == (10_000, 3, 32, 32)
    assert images.labels.bincount().tolist() == [1000] * 10
    table = pq.read_table(next(root.glob("test-*.parquet")))
    assert images.labels.tolist() == table["label"].to_pylist()
    for row in (0, 1, 4999, 9999):
        decoded = Image.open(io.BytesIO(table["img"][row].as_py()["bytes"])).convert("RGB")
        assert torch.equal(images.images[row], chw(np.array(decoded)))


def test_real_cifar100_labels(shared):
    root = shared / "data/cifar100"
    if not root.is_dir():
        pytest.skip(f"needs {root}, which is absent")
    source = find(str(root))
    assert set(source.splits) == {"train", "test"}
    images, names = source.read("test")  # not decoded
    assert len(names) == 100
    assert (names[0], names[-1]) == ("apple", "worm")
    assert images.labels.bincount().tolist() == [100] * 100


# classes


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


# validation


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


# mean, std and normalise


def moments(pictures: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Of [N, C, H, W], per channel, of pixels in [0, 1]."""
    scaled = pictures.astype(np.float64) / 255
    return scaled.mean((0, 2, 3)), scaled.std((0, 2, 3))


@pytest.mark.parametrize("validation", [0.0, 0.5])
def test_mean_and_std_are_the_training_splits(make_folder, validation):
    steps = {"train/a": 6, "train/b": 6, "val/a": 2}
    data = load_data(str(make_folder(steps)), validation=validation)
    train = [np.frombuffer(image, np.uint8).reshape(3, 8, 8) for image in raw(data, "train")[0]]
    assert len(train) == (6 if validation else 12)
    mean, std = moments(np.stack(train))
    np.testing.assert_allclose(data.mean, mean, atol=5.1e-5)
    np.testing.assert_allclose(data.std, std, atol=5.1e-5)


def test_mean_and_std_of_digits():
    data = load_data("digits")
    train = [np.frombuffer(image, np.uint8).reshape(1, 8, 8) for image in raw(data, "train")[0]]
    mean, std = moments(np.stack(train))
    np.testing.assert_allclose(data.mean, mean, atol=5.1e-5)
    np.testing.assert_allclose(data.std, std, atol=5.1e-5)


def test_given_mean_and_std_are_kept(make_folder):
    root = str(make_folder({"train/a": 1, "val/a": 1}))
    data = load_data(root, mean=[0.0, 0.1, 0.2], std=(0.5, 0.6, 0.7))
    assert (data.mean, data.std) == ((0.0, 0.1, 0.2), (0.5, 0.6, 0.7))
    half = load_data(root, mean=(0.0, 0.1, 0.2))
    assert half.mean == (0.0, 0.1, 0.2)
    assert half.std == load_data(root).std


def test_images_that_are_not_in_memory_get_imagenets_mean_and_std(make_folder):
    root = str(make_folder({"train/a": 1, "val/a": 1}, size=(70, 70)))
    for options in ({}, {"splits": ("test",)}):
        data = load_data(root, **options)
        assert data.mean == (0.485, 0.456, 0.406)
        assert data.std == (0.229, 0.224, 0.225)


def test_images_of_one_colour_do_not_divide_by_zero(make_folder):
    flat = [np.full((8, 8, 3), 40, np.uint8)] * 2
    data = load_data(str(make_folder({"train/a": flat, "val/a": flat})))
    images, _ = everything(data, "test")
    assert normalise(images, data.mean, data.std).isfinite().all()


@pytest.mark.parametrize("chans", [1, 3])
def test_normalise_is_numpys(chans):
    generator = np.random.default_rng(0)
    images = generator.integers(0, 256, (4, chans, 5, 7), dtype=np.uint8)
    images[0, :, 0, :2] = (0, 255)
    mean, std = (0.4, 0.5, 0.6)[:chans], (0.2, 0.3, 0.25)[:chans]
    shape = (1, chans, 1, 1)
    expected = (images / 255.0 - np.reshape(mean, shape)) / np.reshape(std, shape)
    before = torch.from_numpy(images.copy())
    given = torch.from_numpy(images)
    got = normalise(given, mean, std)
    assert got.dtype == torch.float32
    np.testing.assert_allclose(got.numpy(), expected, rtol=1e-5, atol=1e-6)
    assert torch.equal(given, before)


# augmentation


def crops(picture: torch.Tensor, pad: tuple[int, int], mirrored: bool) -> set[bytes]:
    """All crops, of its own size, of [C, H, W] with `pad` rows and columns of zeros around it."""
    height, width = picture.shape[1:]
    wide = np.pad(picture.numpy(), ((0, 0), (pad[0],) * 2, (pad[1],) * 2))
    found = [
        wide[:, y : y + height, x : x + width]
        for y in range(2 * pad[0] + 1)
        for x in range(2 * pad[1] + 1)
    ]
    return {np.ascontiguousarray(c[:, :, ::-1] if mirrored else c).tobytes() for c in found}


@pytest.mark.parametrize(
    ("size", "pad"), [((8, 8), (1, 1)), ((16, 8), (2, 1)), ((3, 3), (1, 1)), ((32, 32), (4, 4))]
)
@pytest.mark.parametrize("augment", ["crop", "crop_flip", "auto"])
def test_crops_are_those_of_the_padded_image(make_folder, pixels, size, pad, augment):
    root = make_folder({"train/a": 1, "val/a": 1}, size=size)
    torch.manual_seed(0)
    dataset = load_data(str(root), augment=augment).loaders["train"].dataset
    picture = chw(pixels("train/a/0", *size))
    straight, mirrored = (crops(picture, pad, flip) for flip in (False, True))
    draws = [dataset[0][0].numpy().tobytes() for _ in range(600)]
    valid = straight if augment == "crop" else straight | mirrored
    assert set(draws) <= valid
    assert len(set(draws)) >= (len(valid) if len(valid) < 40 else 0.9 * len(valid))
    if augment != "crop":
        assert 0.4 < sum(draw in mirrored for draw in draws) / len(draws) < 0.6


def test_no_augmentation_leaves_the_pixels(make_folder, pixels):
    root = make_folder({"train/a": 1, "val/a": 1})
    dataset = load_data(str(root), augment="none").loaders["train"].dataset
    for _ in range(20):
        assert torch.equal(dataset[0][0], chw(pixels("train/a/0", 8, 8)))


def test_resized_crops_are_parts_of_the_image_and_mirrored_sometimes(make_folder):
    ramp = np.tile(np.linspace(0, 255, 120).astype(np.uint8), (90, 1))
    picture = np.stack([ramp] * 3, axis=2)
    root = make_folder({"train/a": [picture], "val/a": [picture]})
    torch.manual_seed(0)
    dataset = load_data(str(root), image_size=24).loaders["train"].dataset
    slopes, spans = [], set()
    for _ in range(100):
        image = dataset[0][0].int()
        assert image.shape == (3, 24, 24)
        slopes.append(int(image[0, 0, -1] - image[0, 0, 0]))
        spans.add(abs(slopes[-1]))
    assert 25 < sum(slope < 0 for slope in slopes) < 75
    assert len(spans) > 20  # of different widths
    assert min(spans) > 10


def test_test_images_are_never_augmented(make_folder, pixels):
    data = load_data(str(make_folder({"train/a": 1, "val/a": 1})), augment="crop_flip")
    for _ in range(10):
        assert torch.equal(everything(data, "test")[0][0], chw(pixels("val/a/0", 8, 8)))


# order and batches


@pytest.fixture
def ten(make_folder) -> str:
    """Ten training and ten test images, whose colour is their number."""
    flat = [np.full((8, 8, 3), 20 * i, np.uint8) for i in range(10)]
    return str(make_folder({"train/a": flat[:5], "train/b": flat[5:], "val/a": flat}))


def numbers(data: Data, split: str) -> list[list[int]]:
    """The images of each batch by number; padding of an augmented image leaves its centre."""
    return [(images[:, 0, 4, 4] // 20).tolist() for images, _ in data.loaders[split]]


def test_a_seed_is_an_order(ten):
    first, same, other = (load_data(ten, batch_size=5, seed=seed) for seed in (1, 1, 2))
    epochs = [numbers(first, "train") for _ in range(3)]
    assert epochs == [numbers(same, "train") for _ in range(3)]
    assert epochs != [numbers(other, "train") for _ in range(3)]
    assert epochs[0] != epochs[1]  # each epoch has its own


def test_reseeding_is_loading_with_that_seed(ten):
    data = load_data(ten, batch_size=5, seed=1)
    again, other = data.reseed(1), data.reseed(2)
    expected = numbers(load_data(ten, batch_size=5, seed=2), "train")
    assert numbers(other, "train") == expected
    assert numbers(again, "train") == numbers(data, "train") != expected
    assert numbers(other, "test") == numbers(data, "test")
    assert (other.classes, other.mean, other.std) == (data.classes, data.mean, data.std)


def test_the_order_does_not_hang_on_the_global_random_state(ten):
    orders = []
    for state in (0, 1):
        torch.manual_seed(state)
        orders.append(numbers(load_data(ten, batch_size=5), "train"))
    assert orders[0] == orders[1]


def test_augmentation_belongs_to_the_loaders_seed_the_epoch_and_the_image():
    """The rule: torch's global seed decides nothing in batches; `dataset[i]` draws from it."""
    epochs = []
    for state, seed in ((0, 0), (1, 0), (0, 1)):
        torch.manual_seed(state)
        before = torch.get_rng_state()
        data = load_data("digits", batch_size=64, seed=seed)
        epochs.append(everything(data, "train")[0])
        assert torch.equal(torch.get_rng_state(), before)
    assert torch.equal(epochs[0], epochs[1])
    assert not torch.equal(epochs[0], epochs[2])
    assert not torch.equal(everything(data, "train")[0], epochs[2])  # the next epoch
    dataset = data.loaders["train"].dataset
    drawn = []
    for state in (0, 0, 1, 2, 3):
        torch.manual_seed(state)
        drawn.append(dataset[0][0])
    assert torch.equal(drawn[0], drawn[1])
    assert any(not torch.equal(drawn[0], other) for other in drawn[2:])


def test_training_batches_are_never_ragged(ten):
    data = load_data(ten, batch_size=4, eval_batch_size=4)
    assert len(data.loaders["train"]) == 2
    for _ in range(3):
        batches = numbers(data, "train")
        assert [len(batch) for batch in batches] == [4, 4]
        assert len({n for batch in batches for n in batch}) == 8
    assert numbers(data, "test") == [[0, 1, 2, 3], [4, 5, 6, 7], [8, 9]]


def test_labels_follow_their_images(ten):
    for images, labels in load_data(ten, batch_size=3).loaders["train"]:
        assert labels.tolist() == (images[:, 0, 4, 4] // 20 >= 5).int().tolist()


@pytest.mark.parametrize("batch_size", [10, 11, 128])
def test_data_no_larger_than_a_batch(ten, batch_size):
    data = load_data(ten, batch_size=batch_size, eval_batch_size=batch_size)
    for split in ("train", "test"):
        (batch,) = numbers(data, split)
        assert sorted(batch) == list(range(10))


def test_measuring_the_training_split(ten):
    data = load_data(ten, splits=("train",), training=False, batch_size=3, eval_batch_size=4)
    assert numbers(data, "train") == [[0, 1, 2, 3], [4, 5, 6, 7], [8, 9]]
    images, labels = everything(data, "train")
    assert torch.equal(images, (torch.arange(10) * 20)[:, None, None, None].expand(10, 3, 8, 8))
    assert labels.tolist() == [0] * 5 + [1] * 5


def test_workers_give_the_same_images_in_the_same_order(ten):
    alone, helped = (load_data(ten, batch_size=5, workers=workers) for workers in (0, 1))
    assert numbers(alone, "train") == numbers(helped, "train")
    assert numbers(alone, "test") == numbers(helped, "test")


@pytest.mark.parametrize("size", [(8, 8), (70, 70)])
def test_data_sets_can_be_sent_to_workers(make_folder, make_parquet, png, pixels, size):
    """Python 3.14, macOS and Windows start workers by pickling."""
    picture = png(pixels("x", *size))
    folder = make_folder({"train/a": [picture], "val/a": [picture]})
    columns = {"img": structs([picture]), "label": [0]}
    parquet = make_parquet({"train.parquet": columns, "test.parquet": columns})
    for root in (folder, parquet):
        for loader in load_data(str(root), image_size=16).loaders.values():
            dataset = pickle.loads(pickle.dumps(loader.dataset))
            image, label = dataset[0]
            assert (image.shape, label) == ((3, 16, 16), 0)


# cifar10 and cifar100


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

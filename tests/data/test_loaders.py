"""`load_data`: image sizes, bad options, a pretrained network's input, pickling."""

from __future__ import annotations

import pickle

import pytest
import torch
from support.datasets import (
    everything,
    one_line,
    structs,
)

import accuracy_booster as ab
from accuracy_booster.data import load_data
from accuracy_booster.models.preprocessing import pretrained_preprocessing


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
        (
            {"train/a": 1, "val/a": 1, "val/b": 1},
            {},
            "classes that train/ has not: b; put .* into train/",
        ),
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


def test_grey_images_for_a_pretrained_network():
    own = pretrained_preprocessing("timm/convnext_tiny")
    data = load_data("digits", own=own, image_size=16)
    assert data.in_chans == 1
    assert data.mean == (pytest.approx((0.485 + 0.456 + 0.406) / 3),)


@pytest.mark.parametrize(
    ("option", "value", "message"),
    [
        ("interpolation", "lanczos", "bilinear, bicubic or nearest"),
        ("crop_pct", 1.2, r"crop_pct=1.2 must be a share in \(0, 1\]"),
        ("crop_mode", "centre", "center, squash or border"),
    ],
)
def test_bad_values_are_refused(make_folder, option, value, message):
    root = str(make_folder({"train/a": 1, "val/a": 1}))
    with pytest.raises(ValueError, match=message):
        ab.train("resnet8", data=root, **{option: value})
    with pytest.raises(ValueError, match=option):
        load_data(root, **{option: value})

"""Which images are kept in memory, and what is said of those that cannot be read."""

from __future__ import annotations

import re

import numpy as np
import pytest
from PIL import Image
from support.datasets import (
    TRAIN,
    chw,
    cut,
    everything,
    is_in_memory,
    raw,
    run,
)

from accuracy_booster.data import (
    load_data,
)


def test_small_images_keep_their_size_and_are_in_memory(make_folder):
    root = make_folder({"train/a": 2, "val/a": 2}, size=(13, 64))
    data = load_data(str(root))
    assert data.image_size == (13, 64)
    assert data.augment == "crop_flip"
    assert is_in_memory(data, "train")
    assert is_in_memory(data, "test")
    assert everything(data, "train")[0].shape == (2, 3, 13, 64)


@pytest.mark.parametrize("size", [(65, 32), (300, 250)])
def test_large_images_are_cropped_to_224_and_stay_encoded(make_folder, size):
    data = load_data(str(make_folder({"train/a": 2, "val/a": 2}, size=size)))
    assert data.image_size == (224, 224)
    assert data.augment == "resized_crop"
    for split in ("train", "test"):
        assert not is_in_memory(data, split)
        assert everything(data, split)[0].shape == (2, 3, 224, 224)


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
        assert not is_in_memory(data, "train")
        with pytest.warns(UserWarning, match=re.escape(str(root / "train/a/001.png"))):
            assert len(everything(data, "train")[0]) == 3  # the next image takes its place
        return
    assert is_in_memory(data, "train")
    (reason,) = data.unreadable
    assert str(root / "train/a/001.png") in reason
    assert "\n" not in reason
    assert raw(data, "train") == ([chw(p).numpy().tobytes() for p in good], [0, 0])


def test_an_image_that_pillow_refuses_for_its_size_is_named(make_folder, png, monkeypatch):
    """DecompressionBombError is neither an OSError nor a ValueError; it is skipped like those."""
    root = make_folder({"train/a": 2, "val/a": 1}, size=(16, 16))
    (root / "train/a/000.png").write_bytes(png(np.zeros((8, 8, 3), np.uint8)))
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 100)
    data = load_data(str(root), splits=("train",))
    (reason,) = data.unreadable
    assert "001.png" in reason
    assert len(everything(data, "train")[0]) == 1


pytestmark = pytest.mark.forks


@pytest.mark.parametrize(("side", "number"), [(8, 0), (70, 0), (70, 1)])
@pytest.mark.parametrize("split", ["train", "val"])
def test_a_split_none_of_whose_images_can_be_read(
    make_folder, png, pixels, tmp_path, capsys, side, number, split
):
    bad = cut(png, pixels, side)
    folders = {"train/a": 4, "train/b": 4, "val/a": 2, "val/b": 2}
    folders |= {f"{split}/a": bad, f"{split}/b": bad}
    root = make_folder(folders, size=(side, side))
    size = ("--image_size", 8) if side > 64 else ()
    words = (*TRAIN, "--data", root, "--output", tmp_path / "run", "--workers", number, *size)
    last = run(*words, capsys=capsys)
    assert "none of 8 images" in last
    assert "could be read" in last or "can be read" in last
    assert f"{split}/a/00" in last or f"{split}/b/00" in last


def test_a_class_that_loses_all_its_images_is_named(make_folder, png, pixels):
    root = make_folder({"train/a": 2, "train/odd": cut(png, pixels, 8), "val/a": 1})
    with pytest.warns(UserWarning, match=r"class odd of .*train is left.*none of its 4 .*000\.png"):
        data = load_data(str(root))
    assert data.classes == ("a", "odd")
    assert len(data.unreadable) == 4

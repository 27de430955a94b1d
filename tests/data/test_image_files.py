"""Which files and folders count: leftovers, links, pipes, and kinds of files."""

# N batch, C channels, H W space

from __future__ import annotations

import os

import numpy as np
import pytest
import torch
from PIL import Image
from support.datasets import (
    everything,
    labels,
    names,
    quiet,
)

from accuracy_booster.data import load_data
from accuracy_booster.data.image_files import extensions


def test_jpegs_and_upper_case_extensions_are_found(make_folder, png, pixels):
    root = make_folder({"train/a": 1, "val/a": 0})
    flat = np.full((8, 8, 3), 90, np.uint8)
    (root / "val/a/x.JPG").write_bytes(png(flat, "JPEG"))
    (root / "val/a/y.webp").write_bytes(png(flat, "WEBP"))
    images, _ = everything(load_data(str(root)), "test")
    assert len(images) == 2
    assert (images.int() - 90).abs().max() <= 2


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

    assert {".jpg", ".png", ".gif", ".webp", ".jfif", ".bmp", ".tif"} <= extensions()
    assert not {".pdf", ".mpg", ".eps", ".h5", ".txt", ".heic"} & extensions()
    assert all(Image.registered_extensions()[e] in Image.OPEN for e in extensions())

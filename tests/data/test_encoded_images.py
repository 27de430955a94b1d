"""Images that cannot be decoded are named in one line; no other program is run."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from PIL import Image
from support.datasets import (
    cut,
    one_bit_png,
    sentence,
)

from accuracy_booster.data import load_data
from accuracy_booster.data.encoded_images import EncodedImages, ReadPath
from accuracy_booster.data.images import UnreadableImage

pytestmark = pytest.mark.forks


@pytest.mark.parametrize("bound", [10_000_000, None])
def test_pixels_of_a_decoded_image_are_bounded(tmp_path, monkeypatch, bound):
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", bound)
    (tmp_path / "x.png").write_bytes(one_bit_png(20_000, 9_500))
    images = EncodedImages(ReadPath([tmp_path / "x.png"]), [0], "x")
    with pytest.raises(UnreadableImage, match=r"x\.png: .*pixels") as error:
        images[0]
    sentence(error)


def test_many_frames_are_one_image(tmp_path):
    frames = [Image.new("P", (8, 8), i % 7) for i in range(300)]
    for form in ("GIF", "TIFF"):
        path = tmp_path / f"x.{form.lower()}"
        frames[0].save(path, form, save_all=True, append_images=frames[1:])
        assert EncodedImages(ReadPath([path]), [0], "x")[0][0].shape == (3, 8, 8)


def test_other_programs_are_not_run(tmp_path):
    Image.new("RGB", (8, 8)).save(tmp_path / "x.eps")
    (tmp_path / "x.eps").rename(tmp_path / "x.png")
    with pytest.raises(UnreadableImage, match="it is EPS, which needs another program"):
        EncodedImages(ReadPath([tmp_path / "x.png"]), [0], "x")[0]


def test_names_are_told_in_one_line(make_folder, png, pixels):
    root = make_folder({"train/a": 2, "val/a": 1})
    broken = cut(png, pixels, 8)[0]
    names = (b"x\ny.png", b"\xff.png", b"\x1b[31m.png", "UnreadableImage: \u2028.png".encode())
    for name in names:
        Path(os.fsdecode(os.fsencode(root / "train/a") + b"/" + name)).write_bytes(broken)
    (root / "train/a/empty.png").write_bytes(b"")
    data = load_data(str(root))
    told = sorted(data.unreadable)
    assert len(told) == 5
    assert all(text.isprintable() for text in told)
    for name in (
        "x\\ny.png",
        "\\udcff.png",
        "\\x1b[31m.png",
        "\\u2028.png",
        "empty.png: it is empty",
    ):
        assert any(name in text for text in told), name


def test_a_reader_that_wants_another_package_is_no_reason_for_a_person(tmp_path, monkeypatch):
    """ultralytics replaces Pillow's `open`, and its one imports pi_heif for what is no image."""

    def opened(*_, **__):
        raise ModuleNotFoundError("No module named 'pi_heif'")

    monkeypatch.setattr(Image, "open", opened)
    (tmp_path / "x.jpg").write_bytes(b"no image")
    with pytest.raises(UnreadableImage, match="no image of a kind that Pillow reads here"):
        EncodedImages(ReadPath([tmp_path / "x.jpg"]), [0], "x")[0]

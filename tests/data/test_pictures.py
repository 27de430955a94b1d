"""Images that a user gives: which files are found, and which pixels they have."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image

from accuracy_booster.data.pictures import find_images, pixels_of, read, with_channels


@pytest.fixture
def photos(make_folder):
    root = make_folder({"b": 1, "a/deep": 2}, name="photos")
    (root / "a" / "notes.txt").write_text("no image")
    (root / "a" / "._x.png").write_bytes(b"left by macOS")
    return root


@pytest.mark.parametrize(
    ("pattern", "found"),
    [
        ("*", ["a/deep/000.png", "a/deep/001.png", "b/000.png"]),
        ("**", ["a/deep/000.png", "a/deep/001.png", "b/000.png"]),
        ("**/*.png", ["a/deep/000.png", "a/deep/001.png", "b/000.png"]),
        ("?/*.png", ["b/000.png"]),
        ("a/deep/00[1-9].png", ["a/deep/001.png"]),
    ],
)
def test_patterns_that_no_shell_has_expanded(photos, pattern, found):
    names = find_images([photos / pattern])
    assert [name.removeprefix(f"{photos}/") for name in names] == found


def test_a_pattern_without_images_and_a_name_like_a_pattern(photos):
    with pytest.raises(ValueError, match=r"a/\*.txt' matches no images, only 1 path that is none"):
        find_images([photos / "a/*.txt"])
    with pytest.raises(ValueError, match=r"\*.webp' matches no images; check"):
        find_images([photos / "*.webp"])
    (photos / "b/000.png").rename(photos / "b/[1].png")
    assert find_images([photos / "b/[1].png"]) == [str(photos / "b/[1].png")]


def test_the_same_pixels_from_a_file_an_image_an_array_and_a_tensor(tmp_path, pixels):
    array = pixels("same", 5, 7)
    Image.fromarray(array).save(tmp_path / "a.png")
    expected = torch.from_numpy(array).permute(2, 0, 1)
    for given in (Image.fromarray(array), array, expected):
        assert torch.equal(pixels_of(given, 0), expected)
    assert torch.equal(read(str(tmp_path / "a.png")), expected)


def test_grey_is_pillows(pixels):
    array = pixels("grey", 31, 17)
    grey = torch.from_numpy(np.array(Image.fromarray(array).convert("L")))[None]
    assert torch.equal(pixels_of(array, 0, chans=1), grey)
    assert torch.equal(pixels_of(grey[0].numpy(), 0, chans=1), grey)
    three = with_channels(grey, 3)
    assert torch.equal(three, grey.expand(3, -1, -1))
    assert torch.equal(with_channels(three, 1), grey)
    with pytest.raises(ValueError, match=r"takes images of 4 channels, and this one has 3"):
        with_channels(three, 4)

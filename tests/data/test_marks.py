"""Marks tell images from other images, and do not take a damaged file for other data."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from accuracy_booster.data.encoded_images import EncodedImages, ReadPath
from accuracy_booster.data.images import TensorImages
from accuracy_booster.data.marks import DIGITS, GROUPS, difference, marks_of


@pytest.fixture
def files(tmp_path, png, pixels):
    """`files()`: five images in files, read anew."""
    paths = [tmp_path / f"{i}.png" for i in range(5)]
    for path in paths:
        path.write_bytes(png(pixels(path.name, 8, 8)))

    def read(labels=(0, 1, 0, 1, 0), count=5):
        return EncodedImages(ReadPath(paths[:count], str(tmp_path)), labels[:count], "x")

    return read


def test_the_same_files_have_the_same_marks(files):
    assert marks_of(files()) == marks_of(files())
    assert difference(files(), marks_of(files()), marks_of(files())) == ""


def test_each_kind_of_difference_is_named(files, tmp_path, png, pixels):
    known = marks_of(files())
    fewer = files(count=4)
    assert difference(fewer, marks_of(fewer), known) == "4 images and had 5 images"
    others = files(labels=(0, 1, 0, 1, 1))
    assert difference(others, marks_of(others), known) == "other labels in its 5 images"
    (tmp_path / "3.png").write_bytes(png(pixels("another", 8, 8)))
    changed = "other contents in the files of its 5 images"
    assert difference(files(), marks_of(files()), known) == changed


def test_a_file_that_was_damaged_is_no_other_image(files, tmp_path):
    known = marks_of(files())
    (tmp_path / "3.png").write_bytes(b"damaged")
    assert marks_of(files()) != known
    assert difference(files(), marks_of(files()), known) == ""


def test_many_files_share_the_hashes(tmp_path, png, pixels):
    """And a file that changes does so in its own group alone."""
    picture = png(pixels("x", 2, 2))
    count = GROUPS + 10
    encoded = [picture] * count
    before = marks_of(EncodedImages(encoded.__getitem__, [0] * count, "x"))["contents"]
    encoded[GROUPS + 3] = picture + b"x"
    after = marks_of(EncodedImages(encoded.__getitem__, [0] * count, "x"))["contents"]
    changed = [i for i in range(GROUPS * DIGITS) if before[i] != after[i]]
    assert {i // DIGITS for i in changed} == {3}


def test_images_in_memory_have_marks_of_their_pixels():
    images = torch.arange(2 * 3 * 4 * 4).to(torch.uint8).view(2, 3, 4, 4)
    known = marks_of(TensorImages(images, [0, 1]))
    other = images.clone()
    other[1, 2, 3, 3] += 1
    now = marks_of(TensorImages(other, [0, 1]))
    assert difference(None, now, known) == "other pixels in its 2 images"
    assert difference(None, marks_of(TensorImages(images, np.array([0, 1]))), known) == ""


def test_marks_of_older_versions_are_understood(files):
    now = marks_of(files())
    assert difference(files(), now, f"5 images, labels {now['labels']}") == ""
    assert difference(files(), now, f"4 images, labels {now['labels']}").endswith("had 4 images")
    assert difference(files(), now, "5 images, labels 00000000") == "other labels in its 5 images"

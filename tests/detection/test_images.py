"""Images with their targets, and sizes that do not fit the annotations."""

from __future__ import annotations

import io

import numpy as np
import pytest
import torch
from PIL import Image

from accuracy_booster.detection import load_coco

# M boxes of an image, H W space


def test_items_hold_the_file(make, pixels):
    """Pixels, corners, labels by category id with gaps, areas; boxes in the file's order."""
    data = load_coco(make(), augment="none")
    assert data.classes == ("cat", "dog", "bear")
    assert data.category_ids == [3, 7, 90]
    found, target = data.images["train"][0]
    assert np.array_equal(found.permute(1, 2, 0), pixels("0010.png", 24, 32))
    assert target["boxes"].tolist() == [[2, 3, 12, 15], [5.5, 6.25, 13.5, 15.25]]
    assert target["labels"].tolist() == [2, 3]
    assert target["area"].tolist() == [60, 36]
    assert target["image_id"].tolist() == [10]
    types = {name: value.dtype for name, value in target.items()}
    whole = dict.fromkeys(("labels", "image_id", "iscrowd"), torch.int64)
    assert types == {"boxes": torch.float32, "area": torch.float32, **whole}
    assert data.notes == []
    assert data.unreadable == []


def test_size_of_turned_images(make, pixels):
    """The upright size must be the annotated one: else the boxes were made before the turn."""
    root = make()
    for name, size in (("0010", (32, 24)), ("0011", (40, 20))):  # as stored
        exif, buffer = Image.Exif(), io.BytesIO()
        exif[0x0112] = 6
        Image.fromarray(pixels(name, *size)).save(buffer, "PNG", exif=exif)
        (root / "train2017" / f"{name}.png").write_bytes(buffer.getvalue())
    images = load_coco(root).images["train"]
    turned = np.rot90(pixels("0010", 32, 24), -1)
    assert np.array_equal(images[0][0].permute(1, 2, 0), turned)
    line = "it has 20 x 40 pixels, .* of 40 x 20, .* remove its EXIF orientation"
    with pytest.raises(ValueError, match=line):
        images[1]

"""Where the centre crop lies: the numbers that tensors and arrays are cropped by."""

from __future__ import annotations

import pytest
import torch

from accuracy_booster.data.choices import CROP_MODES
from accuracy_booster.data.cropping import Crop


@pytest.mark.parametrize("mode", CROP_MODES)
@pytest.mark.parametrize("crop_pct", [None, 0.9, 1.0])
def test_the_crop_is_torchvisions_and_always_of_its_size(mode, crop_pct):
    from torchvision.transforms.v2 import functional as F

    size = (20, 33)
    crop = Crop(size, crop_pct, mode)
    for shape in ((50, 70), (71, 50), (9, 40), (1, 900), (20, 33), (35, 36)):
        rows, columns = crop.middle(*shape)
        h, w = crop.resized(rows.stop - rows.start, columns.stop - columns.start)
        image = torch.arange(1, h * w + 1).view(1, h, w)
        expected = F.center_crop(image, list(size))[0]
        down, across = crop.spans(h, w)
        inside = [slice(s.before, n - s.after) for s, n in zip((down, across), size, strict=True)]
        made = torch.zeros(size, dtype=torch.int64)
        made[tuple(inside)] = image[0, down.kept, across.kept]
        assert torch.equal(made, expected), shape


def test_the_middle_of_a_very_long_image():
    crop = Crop((32, 32))
    assert crop.middle(1, 30000) == (slice(0, 1), slice(14998, 15002))
    assert crop.middle(300, 3) == (slice(144, 156), slice(0, 3))
    assert crop.middle(30, 40) == (slice(0, 30), slice(0, 40))
    assert Crop((32, 32), mode="border").middle(1, 30000) == (slice(0, 1), slice(0, 30000))


def test_the_colour_of_borders():
    assert Crop((8, 8), mode="border", fill=(0.5, 0.25)).borders == [128, 64]
    assert Crop((8, 8), fill=(0.5, 0.25)).borders == [0, 0]

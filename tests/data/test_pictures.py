"""Images that a user gives, as tensors."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image

from accuracy_booster.data.pictures import pixels_of, read, with_channels


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

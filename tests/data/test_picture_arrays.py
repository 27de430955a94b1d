"""Images that a user gives, as arrays, and their numbers."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image

from accuracy_booster.data.picture_arrays import array_of, numbered
from accuracy_booster.data.pictures import pixels_of


@pytest.mark.parametrize("chans", [1, 3])
def test_an_array_has_the_pixels_of_the_tensor(pixels, chans):
    array = pixels("arrays", 9, 7)
    grey = array[..., 0]
    tensor = torch.from_numpy(array).permute(2, 0, 1)
    given = [array, array[:, ::-1], grey, Image.fromarray(array), Image.fromarray(grey)]
    for image in (*given, tensor, tensor[:1], tensor.flip(1)):
        found = array_of(image, 0, chans)
        assert (found.dtype, found.shape) == (np.uint8, (9, 7, chans))
        expected = pixels_of(image.copy() if isinstance(image, np.ndarray) else image, 0, chans)
        assert np.array_equal(found, expected.permute(1, 2, 0).numpy())


def test_channels_that_do_not_fit(pixels):
    with pytest.raises(ValueError, match=r"takes images of 4 channels, and this one has 3"):
        array_of(pixels("x", 4, 4), 0, chans=4)
    four = np.zeros((4, 4, 4), np.uint8)
    assert array_of(four, 0, chans=4).shape == (4, 4, 4)
    with pytest.raises(ValueError, match=r"image number 5 is an array of uint8 \[4, 4, 4\]"):
        array_of(four, 5)


def test_numbers_of_what_is_given(make_folder, pixels):
    root = make_folder({"a": 2})
    image = pixels("x", 4, 4)
    paths = [str(root / f"a/00{i}.png") for i in range(2)]
    found = numbered([image, root, image])
    assert isinstance(found, list)
    assert [number for number, _ in found] == [0, 1, 1, 2]
    assert [item for _, item in found[1:3]] == paths
    assert numbered(root) == [(0, paths[0]), (0, paths[1])]
    assert len(list(numbered(np.stack([image] * 3)))) == 3
    taken = []
    several = numbered(taken.append(i) or image for i in range(3))
    assert not taken
    assert next(several)[0] == 0
    assert len(taken) == 1

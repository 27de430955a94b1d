"""The pixels of resized images are torch's, bit for bit."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from accuracy_booster.data.choices import INTERPOLATIONS
from accuracy_booster.data.transforms import resize
from accuracy_booster.exported.resizing import resize_part

# of the image and the resized one: smaller, larger, both, equal, tiny, very long
SIZES = [
    *(((37, 53), (16, 24)), ((90, 61), (17, 61)), ((23, 31), (40, 57)), ((150, 20), (33, 33))),
    *(((1, 1), (9, 7)), ((1, 3000), (5, 40)), ((2000, 3), (3, 90)), ((64, 64), (64, 64))),
    *(((300, 500), (7, 3)), ((5, 7), (300, 200)), ((33, 32), (32, 33)), ((400, 300), (399, 301))),
]


def torchs(image: np.ndarray, size: tuple[int, int], interpolation: str) -> np.ndarray:
    tensor = torch.from_numpy(image).permute(2, 0, 1)
    return resize(tensor, size, interpolation).permute(1, 2, 0).numpy()


@pytest.fixture(params=["noise", "black_and_white"])
def make(request):
    rng = np.random.default_rng(0)

    def made(height: int, width: int, chans: int) -> np.ndarray:
        noise = rng.integers(0, 256, (height, width, chans))
        return (noise if request.param == "noise" else 255 * (noise > 127)).astype(np.uint8)

    return made


@pytest.mark.parametrize("interpolation", INTERPOLATIONS)
@pytest.mark.parametrize("chans", [1, 3, 4])
def test_all_pixels_are_torchs(make, interpolation, chans):
    everything = slice(None)
    for old, new in SIZES:
        image = make(*old, chans)
        found = resize_part(image, new, everything, everything, interpolation)
        assert found.dtype == np.uint8
        assert np.array_equal(found, torchs(image, new, interpolation)), (old, new)


@pytest.mark.parametrize("interpolation", INTERPOLATIONS)
def test_a_part_is_cut_out_of_the_whole(make, interpolation):
    rows, columns = slice(5, 23), slice(11, 12)
    for old in ((70, 90), (29, 31), (600, 18)):
        image = make(*old, 3)
        found = resize_part(image, (30, 40), rows, columns, interpolation)
        assert np.array_equal(found, torchs(image, (30, 40), interpolation)[rows, columns])


def test_an_interpolation_that_torch_lacks(make):
    with pytest.raises(ValueError, match="unknown interpolation 'lanczos'"):
        resize_part(make(4, 4, 3), (2, 2), slice(None), slice(None), "lanczos")

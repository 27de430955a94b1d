"""Images for an exported network are those that the trainer measures with."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from support.exported_files import ABOUT

from accuracy_booster.data import normalise
from accuracy_booster.data.choices import CROP_MODES, INTERPOLATIONS
from accuracy_booster.data.image_errors import TooManyPixels
from accuracy_booster.data.transforms import CentreCrop
from accuracy_booster.exported.preprocessing import Preprocessing

SHAPES = [(50, 70), (71, 50), (20, 24), (9, 40), (1, 900), (700, 3), (1, 1), (32, 37)]


def trainers(about, image):
    """The input that measuring makes, float32 [C, H, W]."""
    how = (about.interpolation, about.crop_pct, about.crop_mode, about.mean)
    cropped = CentreCrop(about.input_size[1:], *how)(torch.from_numpy(image).permute(2, 0, 1))
    return normalise(cropped[None], about.mean, about.std)[0].numpy()


@pytest.mark.parametrize("mode", CROP_MODES)
@pytest.mark.parametrize("interpolation", INTERPOLATIONS)
@pytest.mark.parametrize("crop_pct", [None, 1.0, 0.9])
def test_every_number_is_the_trainers(pixels, mode, interpolation, crop_pct):
    about = replace(
        ABOUT,
        input_size=(3, 28, 35),
        interpolation=interpolation,
        crop_mode=mode,
        crop_pct=crop_pct,
    )
    make = Preprocessing(about)
    for shape in SHAPES:
        image = pixels("inputs", *shape)
        found = make(image)
        assert (found.dtype, found.shape) == (np.float32, (3, 28, 35))
        assert np.array_equal(found, trainers(about, image)), shape


def test_each_value_of_a_pixel_and_grey_images():
    ramp = np.arange(256, dtype=np.uint8).reshape(16, 16, 1)
    for mean, std in ((0.1307, 0.3081), (0.5, 0.5), (0.4433, 0.2)):
        about = replace(
            ABOUT,
            input_size=(1, 16, 16),
            mean=(mean,),
            std=(std,),
            crop_pct=1.0,
            crop_mode="squash",
        )
        assert np.array_equal(Preprocessing(about)(ramp), trainers(about, ramp))


def test_the_same_images_are_refused(pixels):
    about = replace(ABOUT, crop_mode="squash", input_size=(3, 300, 300))
    image = np.zeros((400_000, 1, 3), np.uint8)
    with pytest.raises(TooManyPixels, match="to resize its 400000 x 1 pixels") as ours:
        Preprocessing(about)(image)
    with pytest.raises(TooManyPixels) as theirs:
        trainers(about, image)
    assert str(ours.value) == str(theirs.value)


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"interpolation": "lanczos"}, "unknown interpolation 'lanczos'.*pip install -U"),
        ({"crop_mode": "corner"}, "unknown crop_mode 'corner'"),
    ],
)
def test_texts_that_this_version_does_not_know(change, says):
    with pytest.raises(ValueError, match=says):
        Preprocessing(replace(ABOUT, **change))

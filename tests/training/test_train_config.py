"""The settings of classification: sizes of images, and what they may be."""

from __future__ import annotations

import pytest

from accuracy_booster.training import TrainConfig


def test_an_image_size_is_a_height_and_a_width():
    assert TrainConfig("resnet8", image_size=32).image_size == (32, 32)
    assert TrainConfig("resnet8", image_size=(24, 32), in_chans=1).input_size == (1, 24, 32)


@pytest.mark.parametrize("given", [{}, {"image_size": 32}, {"in_chans": 3}])
def test_without_data_there_is_no_input_size(given):
    with pytest.raises(ValueError, match="its data have not been opened"):
        _ = TrainConfig("resnet8", **given).input_size


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("freeze", "gates"),
        ("std", (0.5, 0.0)),
        ("label_smoothing", 1.0),
        ("mixup", -0.1),
        ("cutmix", -0.1),
        ("compile", "yes"),
        ("fuse", "yes"),
        ("interpolation", "lanczos"),
        ("crop_pct", 1.1),
        ("crop_mode", "middle"),
        ("in_chans", 0),
        ("num_classes", 0),
    ],
)
def test_values_out_of_range_are_told(name, value):
    with pytest.raises(ValueError, match=f"^{name}=.* must be "):
        TrainConfig("resnet8", **{name: value})

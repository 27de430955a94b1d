"""The settings of classification: sizes of images, and what they may be."""

from __future__ import annotations

import re

import pytest

from accuracy_booster.training import TrainConfig
from accuracy_booster.training.identity import fingerprint


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


def test_where_and_skip_are_texts_that_are_read_back():
    config = TrainConfig("resnet8", where=("a", re.compile("b{1,2}")), skip=["layer1", "*.bn1"])
    assert (config.where, config.skip) == ("a,/b{1,2}/", "layer1,*.bn1")
    assert TrainConfig.from_yaml(config.to_yaml()) == config
    assert TrainConfig("resnet8", skip=[]).skip is None


@pytest.mark.parametrize(
    ("given", "told"),
    [
        ({"where": "//"}, "where='//' must be"),
        ({"where": "/(/"}, "is no regular expression"),
        ({"where": lambda name, module: True}, "cannot be written"),
        ({"skip": 3}, "skip=3 must be names"),
    ],
)
def test_what_where_and_skip_cannot_be_is_told(given, told):
    with pytest.raises(ValueError, match=told):
        TrainConfig("resnet8", **given)


def test_a_run_of_an_older_version_has_its_gates_on_residual_branches():
    config = TrainConfig("resnet8")
    old = "".join(
        line
        for line in config.to_yaml().splitlines(keepends=True)
        if not line.startswith(("where:", "skip:"))
    )
    assert TrainConfig.from_yaml(old) == config
    assert fingerprint(config) != fingerprint(config.change({"where": "conv"}))
    assert fingerprint(config) != fingerprint(config.change({"skip": "layer1"}))

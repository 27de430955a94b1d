"""What a run's network says of itself, also for runs of older versions."""

from __future__ import annotations

import json

import pytest

from accuracy_booster.detection.config import DetectConfig
from accuracy_booster.training.network_metadata import (
    network_metadata,
    preprocessing,
    pretrained_cfg,
)
from accuracy_booster.training.train_config import TrainConfig

CONFIG = TrainConfig(
    "resnet8",
    **{"in_chans": 3, "image_size": (32, 48), "num_classes": 4, "mean": (0.1, 0.2, 0.3)},
    **{"std": (0.4, 0.5, 0.6), "augment": "crop_flip"},
)
INFO = {"classes": ["a", "b", "c"]}


def test_numbers_and_lists_are_json_and_all_else_text():
    found = network_metadata(CONFIG, INFO)
    assert all(isinstance(value, str) for value in found.values())
    assert (found["model"], found["block"]) == ("resnet8", "ab")
    assert json.loads(found["input_size"]) == [3, 32, 48]
    assert json.loads(found["mean"]) == [0.1, 0.2, 0.3]
    assert json.loads(found["classes"]) == ["a", "b", "c"]


def test_a_detector_has_no_size_of_its_input():
    found = network_metadata(DetectConfig("resnet50", data="coco"), INFO)
    assert (found["model"], found["task"]) == ("resnet50", "detection")
    assert "input_size" not in found


@pytest.mark.parametrize(
    ("info", "augment", "side", "crop"),
    [
        ({"whole": True}, "resized_crop", 224, (1.0, "squash")),
        ({"whole": False}, "crop_flip", 32, (0.864864, "center")),
        ({}, "crop_flip", 32, (1.0, "squash")),
        ({}, "resized_crop", 32, (0.864864, "center")),
        ({}, "none", 224, (0.875, "center")),
    ],
)
def test_images_that_were_measured_whole(info, augment, side, crop):
    """Without `whole`, as in runs of older versions, the size and the augmentation tell it."""
    config = CONFIG.change({"augment": augment, "image_size": side})
    found = preprocessing(config, info)
    assert (found["crop_pct"], found["crop_mode"]) == crop


def test_the_names_of_the_classes_are_timms():
    found = pretrained_cfg(CONFIG.change({"crop_pct": 0.9}), {**INFO, "whole": False})
    assert found["label_names"] == ["a", "b", "c"]
    assert (found["num_classes"], found["crop_pct"]) == (4, 0.9)

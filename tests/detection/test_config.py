"""Rules of `DetectConfig`."""

from __future__ import annotations

import pytest
from support.detectors import NO_DEAD_NORMS

from accuracy_booster.detection.config import DetectConfig
from accuracy_booster.training.run_config import RunConfig

# N batch, C channels, H W space


pytestmark = NO_DEAD_NORMS


def test_one_size_may_be_a_number():
    assert DetectConfig("resnet18", data="x", min_size=96).min_size == (96,)


def test_a_batch_of_one_image():
    frozen = DetectConfig("resnet18", data="x", norms="frozen", batch_size=1)
    assert RunConfig.of_any_task(frozen.to_yaml())[0].batch_size == 1
    assert DetectConfig("resnet18", data="x", block="none", norms="normal", batch_size=1)
    with pytest.raises(ValueError, match="with --norms frozen one is enough"):
        frozen.change({"norms": "normal"})

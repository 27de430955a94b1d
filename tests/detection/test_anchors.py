"""Sizes of anchors for the maps of a backbone."""

from __future__ import annotations

import pytest
from support.detector_models import QUIET, SMALL

from accuracy_booster.detection import faster_rcnn
from accuracy_booster.detection.anchors import anchor_generator

pytestmark = QUIET


def test_anchors_cover_the_same_sizes_on_any_maps():
    assert anchor_generator([4, 8, 16, 32, 64]).sizes == ((32,), (64,), (128,), (256,), (512,))
    assert anchor_generator([2, 4, 8]).sizes == ((16, 32), (64, 128), (256, 512))
    assert faster_rcnn("resnet20", **SMALL).rpn.anchor_generator.sizes[0] == (16, 32)
    assert anchor_generator([16], [(32, 64)]).sizes == ((32, 64),)
    for wrong in ([32], [32, "a"], [(1, 2), (1,)], [0, 4]):
        with pytest.raises(ValueError, match="each of the 2 maps"):
            anchor_generator([4, 8], wrong)

"""The feature maps are those of torchvision's extractor."""

from __future__ import annotations

import warnings

import pytest
import torch
from support.detector_models import QUIET, SMALL
from torchvision.models.feature_extraction import create_feature_extractor

import accuracy_booster as ab
from accuracy_booster.detection import faster_rcnn

pytestmark = QUIET


@pytest.mark.parametrize(
    ("name", "maps"),
    [
        ("torchvision/mobilenet_v3_large", "features.3 features.6 features.12 features.16"),
        ("torchvision/googlenet", "conv3 inception3b inception4e inception5b"),
    ],
)
def test_maps_are_those_of_torchvisions_extractor(name, maps):
    network = ab.create_model(name).eval()
    model = faster_rcnn(network, **SMALL).eval()
    x = torch.rand(1, 3, 64, 96)
    with warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("ignore")
        known = create_feature_extractor(network, maps.split())(x)
        found = model.backbone.body(x)
    assert list(found) == ["0", "1", "2", "3"]
    assert all(torch.equal(a, b) for a, b in zip(found.values(), known.values(), strict=True))

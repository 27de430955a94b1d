"""Sizes of pre-activation and wide networks."""

from __future__ import annotations

import pytest
import torch

import accuracy_booster as ab
from accuracy_booster.models.preact_cifar import PreActResNet, WideResNet
from accuracy_booster.models.resnet_cifar import ResNetCifar


def test_deep_networks_of_the_classes_are_refused():
    for build in (lambda: ResNetCifar(6 * 10**9 + 2), lambda: PreActResNet(9 * 10**9 + 2)):
        with pytest.raises(ValueError, match="must be <= 2,000"):
            build()
    with pytest.raises(ValueError, match="may have up to"):
        WideResNet(16, 10**400)


@pytest.mark.parametrize("name", ["wrn40_14", "wrn28_20", "wrn22_10"])
def test_published_networks_are_not_too_large(name):
    with torch.device("meta"):
        assert sum(p.numel() for p in ab.create_model(name).parameters()) > 10**7

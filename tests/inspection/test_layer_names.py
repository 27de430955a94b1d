"""Names of layers: sites, and those of the paper."""

# N images, C channels, K classes, H W space

from __future__ import annotations

import pytest
from support.observed_networks import Net, boosted, images

import accuracy_booster as ab


def test_gates_come_in_the_order_in_which_they_run():
    class Reversed(Net):
        def forward(self, x):
            return self.head(self.first(self.second(self.stem(x))).mean((2, 3)))

    gates = ab.gates(Reversed(), [images(4)])
    assert list(gates) == ["second", "first"]
    assert gates.places() == {"second": "Conv2_1", "first": "Conv2_2"}
    assert gates.find() == "second"


def test_names_of_layers():
    gates = ab.gates(boosted("resnet18", "cbam"), [images(2, size=32)])
    assert gates.places()["layer3.1.bn2"] == "Conv4_2"
    assert gates.find() == "layer4.0.bn2"
    for name in ("layer3.1.bn2", "layer3.1", "Conv4_2", "conv4_2"):
        assert gates.find(name) == "layer3.1.bn2"
    assert gates.find("layer3.1.bn2#2") == "layer3.1.bn2#2"
    assert gates["Conv4_2"] is gates["layer3.1"]
    with pytest.raises(ValueError, match=r"unknown layer 'layer3.2.bn2'; nearest:.*layer3.1.bn2"):
        gates.find("layer3.2.bn2")
    with pytest.raises(ValueError, match=r"unknown layer 'layer3'; nearest:.*layer3.0.bn2"):
        gates.find("layer3")

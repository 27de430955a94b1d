"""What cannot lose channels stays whole, and the report says why."""

# N batch, C channels, H W space

from __future__ import annotations

import pytest
from support.gated_networks import images, network
from support.pruned_networks import (
    check_same,
    in_float64,
    with_outputs_zeroed,
)
from support.strictness import WARNINGS_ARE_ERRORS
from torch import nn

import accuracy_booster as ab
from accuracy_booster.pruning import pruned_channels, pruning_of

pytestmark = WARNINGS_ARE_ERRORS


def test_what_cannot_be_pruned_stays_whole_and_is_told():
    model, x = network(), images(n=3)
    nn.utils.parametrizations.weight_norm(model.layer1[0].conv2)
    model.layer2[0].bn2.register_forward_hook(lambda *a: None)
    small = ab.prune(model, 0.5, by="magnitude", example=x)
    assert set(pruned_channels(small)) == {"layer3.0.bn2"}
    text = str(pruning_of(small))
    assert "'layer1.0.conv2' is a ParametrizedConv2d with a forward or weights of its own" in text
    assert "a hook reads 'layer2.0.bn2'" in text
    assert "1 of 3 places are smaller, 32 channels are gone" in text
    check_same(small(x), with_outputs_zeroed(model, pruned_channels(small))(x))


def test_shared_weights_and_second_readers_stay_whole():
    model, x = network(), images(n=3)
    first, second = model.layer1[0], model.layer2[0]
    first.conv2.weight = first.conv1.weight  # 16 to 16 channels, both
    second.act1.register_forward_hook(lambda *a: None)
    small = ab.prune(model, 0.5, by="magnitude", of="inner", example=x)
    assert set(pruned_channels(small)) == {"layer3.0.conv1"}
    text = str(pruning_of(small))
    assert "shares its weights" in text
    assert "a hook reads 'layer2.0.act1'" in text


def test_a_map_that_is_read_twice_stays_whole():
    class Attended(nn.Module):
        """x + conv(relu(norm(conv(x))) * its own mean): a gate written by hand."""

        def __init__(self):
            super().__init__()
            self.stem, self.a = nn.Conv2d(3, 8, 3), nn.Conv2d(8, 8, 1)
            self.n, self.b, self.m = nn.BatchNorm2d(8), nn.Conv2d(8, 8, 1), nn.BatchNorm2d(8)

        def forward(self, x):
            x = self.stem(x)
            h = self.n(self.a(x)).relu()
            return x + self.m(self.b(h * h.mean((2, 3), keepdim=True)))

    model, x = in_float64(Attended()), images(n=3)
    with pytest.raises(ValueError, match=r"nothing of Attended .*b .*mul joins the map with ano"):
        ab.prune(model, 0.5, by="magnitude", of="inner", example=x)
    assert pruned_channels(ab.prune(model, 0.5, by="magnitude", example=x))["m"]


def test_shuffled_channels_inside_are_refused():
    model, x = network("shufflenet_g3"), images("shufflenet_g3", 3)
    with pytest.raises(ValueError, match="nothing of ShuffleNet can be pruned with of='inner'"):
        ab.prune(model, 0.5, by="magnitude", of="inner", example=x)

"""The network of a configuration: its names are checked, and it is built in its memory format."""

from __future__ import annotations

import pytest
import torch

from accuracy_booster.surgery import attached
from accuracy_booster.training import resolve
from accuracy_booster.training.network_building import build_network, check_network_and_block


@pytest.mark.parametrize(
    ("model", "block", "told"),
    [("resnet9", "ab", "resnet9"), ("resnet8", "abb", "abb"), ("resnet8", "gap | nothing", "noth")],
)
def test_unknown_names_are_told(model, block, told):
    with pytest.raises(ValueError, match=told):
        check_network_and_block(resolve(model, data="digits", block=block))


def test_a_network_without_a_block_is_right():
    check_network_and_block(resolve("resnet8", block="none"))


@pytest.mark.parametrize("channels_last", [True, False])
@pytest.mark.parametrize(("init", "factor"), [("identity", 2), ("paper", 1)])
def test_a_network_is_built_as_it_is_configured(channels_last, init, factor):
    options = {"in_chans": 1, "image_size": 8, "num_classes": 7, "init": init}
    network = build_network(resolve("resnet8", channels_last=channels_last, **options))
    weight = network.layer1[0].conv1.weight
    assert weight.is_contiguous(memory_format=torch.channels_last) == channels_last
    logits = network.eval()(torch.randn(2, 1, 8, 8))
    assert logits.shape == (2, 7)
    assert attached(network)
    base = build_network(resolve("resnet8", block="none", channels_last=channels_last, **options))
    missing, _ = base.load_state_dict(network.state_dict(), strict=False)
    assert not missing
    x = torch.randn(2, 1, 8, 8)
    assert torch.equal(network(x), base.eval()(x)) == (init == "identity")
    assert not attached(base)


def test_weights_that_there_are_not_are_told_before_the_data_are_read():
    with pytest.raises(ValueError, match="no pretrained weights for 'resnet8'"):
        check_network_and_block(resolve("resnet8", pretrained=True))
    check_network_and_block(resolve("resnet50", pretrained=True))

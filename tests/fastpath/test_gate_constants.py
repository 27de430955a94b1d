"""What `ab.merge` takes as constants, and what it says of what is none."""

# N batch, C channels, H W space

from __future__ import annotations

import re
import types
import warnings

import pytest
import torch
from support.gated_networks import difference, images, network
from support.merged_networks import (
    IN_FLOAT64,
    LayerNet,
    boosted,
    constants,
    with_constants,
)
from support.strictness import WARNINGS_ARE_ERRORS
from torch import nn

import accuracy_booster as ab
from accuracy_booster.surgery import attached

pytestmark = WARNINGS_ARE_ERRORS


def test_whatever_has_means():
    model, x = network(), images()
    given = constants(model)
    merged = ab.merge(model, types.SimpleNamespace(means=lambda: given))
    assert difference(with_constants(model, given), merged, x) < IN_FLOAT64


@pytest.mark.parametrize("recipe", ["ab", "cbam"])
def test_what_gates_gives(recipe):
    """Gates that hardly vary; of CBAM's two in turn neither is a constant per channel."""
    model, x = network(recipe=recipe), images(n=8)
    with torch.no_grad():
        for gate in attached(model).values():
            for norm in (
                m for m in gate.modules() if isinstance(m, nn.modules.batchnorm._BatchNorm)
            ):
                norm.weight.mul_(1e-9)
    found = ab.gates(model, [x])
    if recipe == "ab":
        assert all(one.is_constant for one in found.values())
        assert difference(model, ab.merge(model, found), x) < 1e-7
        return
    assert len(found) == 6
    with pytest.warns(UserWarning, match=r"'layer3\.0\.bn2' \(it has 2 gates in turn"):
        assert difference(model, ab.merge(model, found), x) == 0


def test_blocks_of_the_network_itself():
    """`ab.gates` tells of blocks that were written into a network too; these stay."""
    own = ab.Recalibrate(6, "ab")
    x = torch.randn(3, 6, 5, 4, dtype=torch.float64)
    model, given = boosted(LayerNet(nn.BatchNorm2d(6), own), x)
    found = ab.gates(model, [x])
    assert set(found) == {"layers.0", "layers.1"}
    with pytest.warns(
        UserWarning, match=r"'layers\.1' \(the gate is a module of the network's own"
    ):
        merged = ab.merge(model, found)
    given = {"layers.0": found["layers.0"].mean}
    assert difference(with_constants(model, given), merged, x) < IN_FLOAT64
    with pytest.raises(ValueError, match="the network's own"):
        ab.merge(model, found, at=found)


def test_errors():
    model = network()
    given = constants(model)
    name = next(iter(given))
    plain = network(recipe=None)
    for arguments, words in (
        ((plain, given), "has no gates to merge"),
        ((model, {**given, name: given[name][1:]}), "15 .*16 channels|have shape .15."),
        ((model, {**given, name: given[name] * float("nan")}), "not finite, such as nan of chan"),
        ((model, {**given, name: given[name] / 0}), "not finite, such as inf of channel 0"),
        ((model, {**given, name: "much"}), "are no tensor: 'much'"),
        ((model, {"layer1.0.bn3": given[name]}), r"unknown site .*nearest: layer1\.0\.bn2"),
        ((model, [1, 2]), "must be a mapping"),
        ((nn.DataParallel(model), given), r"model\.module"),
        ((torch.compile(model, backend="eager"), given), "compiled"),
        ((ab.fold(model), given), "folded already"),
        ((None, given), "expected an nn.Module"),
    ):
        with pytest.raises(ValueError, match=words):
            ab.merge(*arguments)
    with pytest.raises(ValueError, match=r"unknown site .*nearest: layer1\.0\.bn2.*at="):
        ab.merge(model, given, at=["layer1.0.bn"])
    with pytest.raises(ValueError, match=f"{re.escape(name)}.*no constants for it"):
        ab.merge(model, {k: v for k, v in given.items() if k != name}, at=list(given))
    with pytest.raises(ValueError, match="training mode"):
        ab.fold(model.train(), static=given)
    assert len(attached(model)) == 3


class Found(dict):
    """Mean weights with a method, as `ab.gates` gives them."""

    def means(self):
        return dict(self)


def test_gates_of_another_network_are_told():
    net = ab.create_model("resnet8", block="ab").eval()
    one = {"layer1.0.bn2": torch.full((16,), 0.5)}
    with pytest.warns(UserWarning, match=r"not merged.*layer2.0.bn2.*has no constants"):
        merged = ab.merge(net, Found(one))
    assert list(attached(merged)) == ["layer2.0.bn2", "layer3.0.bn2"]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert list(attached(ab.merge(net, one))) == ["layer2.0.bn2", "layer3.0.bn2"]

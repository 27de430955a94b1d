"""The copy with gates as ordinary modules computes the same, and other tools can rewrite it."""

# Gates are forced to p = 0.5, so a gate that is lost or applied twice changes the output.

import copy

import pytest
import torch
import torchvision
from support.gated_branches import (
    BRANCHES,
    SIZE,
    Branch,
    assert_gated,
)
from support.gates import force, halved
from support.networks import randomise
from torch import nn

import accuracy_booster as ab


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("qat", [False, True])
def test_eager_fusing_refuses_and_says_what_to_do(resnet, qat):
    from torch.ao.quantization import fuse_modules, fuse_modules_qat

    model, x, expected = resnet
    run = fuse_modules_qat if qat else fuse_modules
    model.train(qat)
    pair = [["layer1.0.conv2", "layer1.0.bn2"]]
    with pytest.raises((AssertionError, NotImplementedError), match=r"ab\.materialize\(model\)"):
        run(model, pair)
    assert_gated(model.eval(), x, expected)
    ordinary, _ = ab.materialize(model.train(qat))
    fused = run(ordinary, [["layer1.0.conv2", "layer1.0.bn2.base"]])
    assert_gated(fused.eval(), x, expected)


def test_materialize_returns_the_same_network_and_its_names(resnet):
    model, x, expected = resnet
    before = copy.deepcopy(model.state_dict())
    ordinary, names = ab.materialize(model)
    assert_gated(ordinary, x, expected)
    assert set(names) == set(before)
    after = ordinary.state_dict()
    assert set(names.values()) == set(after)
    assert all(torch.equal(after[new], before[old]) for old, new in names.items())
    assert names["layer1.0.bn2.weight"] == "layer1.0.bn2.base.weight"
    assert type(ordinary.layer1[0].bn2) is nn.Sequential
    assert not any(m._forward_pre_hooks for m in ordinary.modules())
    assert model.state_dict().keys() == before.keys()


@pytest.mark.filterwarnings("ignore")
def test_tools_fuse_and_trace_a_materialized_network(resnet):
    from torch.fx.experimental.optimization import fuse

    model, x, expected = resnet
    ordinary, _ = ab.materialize(model)
    fused = fuse(ordinary)
    assert_gated(fused, x, expected)
    assert not any(isinstance(m, nn.BatchNorm2d) for m in fused.modules())


@pytest.mark.parametrize("kind", BRANCHES)
def test_materialize_a_gated_container(kind):
    x = torch.randn(4, 3, 6, 6)
    base = randomise(Branch(kind)).eval()
    model = force(ab.boost(copy.deepcopy(base), "ab", example=x[:1], where=["b"])).eval()
    ordinary, names = ab.materialize(model)
    assert_gated(ordinary, x, halved(base, ["b"])(x).detach())
    assert set(names.values()) == set(ordinary.state_dict())


def test_materialize_refuses_what_has_no_ordinary_form(resnet):
    model, _, _ = resnet
    with pytest.raises(ValueError, match="no gates"):
        ab.materialize(torchvision.models.resnet18())
    ab.fuse(model, example=torch.zeros(SIZE)[:1])
    with pytest.raises(ValueError, match=r"fused.*ab\.unfuse"):
        ab.materialize(model)

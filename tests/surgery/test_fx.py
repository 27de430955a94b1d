"""`torch.fx` follows gates, fused and folded networks, and loses none of what they compute."""

from __future__ import annotations

import copy
import pickle

import pytest
import torch
import torchvision
from torch import nn
from torchvision.models.feature_extraction import create_feature_extractor, get_graph_node_names

import accuracy_booster as ab
from accuracy_booster.blocks import TABLE

pytestmark = pytest.mark.filterwarnings("ignore")
RECIPES = [*TABLE, "ab_g2", "gather(2) | sigmoid", "gather(4, learned=true) | sigmoid"]


@pytest.fixture(autouse=True)
def _seed():
    torch.manual_seed(0)


def randomise(model: nn.Module) -> nn.Module:
    """Gates that change the output: norms and their statistics far from the start."""
    with torch.no_grad():
        for name, value in [*model.named_parameters(), *model.named_buffers()]:
            if "recalibrate" in name and value.is_floating_point():
                value.copy_(torch.rand_like(value) + 0.5)
    return model


@pytest.mark.parametrize("layout", ["NCHW", "NHWC"])
@pytest.mark.parametrize("text", RECIPES)
def test_a_gate_is_traced(text, layout):
    block = ab.Recalibrate(16, text, spatial_size=(6, 5), layout=layout)
    before = copy.deepcopy(block.state_dict())
    graph = torch.fx.symbolic_trace(nn.Sequential(block))
    assert all(torch.equal(before[k], v) for k, v in block.state_dict().items())  # a look only
    x = torch.randn(4, 16, 6, 5) if layout == "NCHW" else torch.randn(4, 6, 5, 16)
    graph.train(), block.train()
    other = copy.deepcopy(block)
    assert torch.equal(graph(x), other(x))
    graph.eval(), block.eval()
    assert torch.equal(graph(x), block(x))
    assert torch.equal(pickle.loads(pickle.dumps(graph))(x), block(x))


@pytest.mark.parametrize("dims", [0, 1, 3])
def test_a_gate_of_another_rank_is_traced(dims):
    block = ab.Recalibrate(8, "ab", spatial_dims=dims).eval()
    x = torch.randn(3, 8, *(4, 3, 2)[:dims])
    assert torch.equal(torch.fx.symbolic_trace(block)(x), block(x))


def test_a_traced_gate_keeps_its_precision_and_its_checks():
    block = ab.Recalibrate(16, "ab").to(torch.bfloat16)
    graph = torch.fx.symbolic_trace(nn.Sequential(block))
    x = torch.randn(8, 16, 5, 5).to(torch.bfloat16)
    assert torch.equal(graph(x), copy.deepcopy(block)(x))
    block = ab.Recalibrate(16, "se")
    graph = torch.fx.symbolic_trace(nn.Sequential(block))
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(graph(x.float()), block(x.float()))
    graph = torch.fx.symbolic_trace(nn.Sequential(ab.Recalibrate(16, "ab")))
    with pytest.raises(ValueError, match="a batch of 1 in training mode"):
        graph.train()(torch.randn(1, 16, 4, 4))


@pytest.fixture(scope="module")
def resnet():
    torch.manual_seed(1)
    return randomise(ab.boost(torchvision.models.resnet18())).eval()


@pytest.mark.parametrize("kind", ["boosted", "fused", "folded"])
def test_features_of_a_resnet(resnet, kind):
    x = torch.randn(2, 3, 64, 64)
    model = {
        "boosted": lambda: resnet,
        "fused": lambda: ab.fuse(copy.deepcopy(resnet)),
        "folded": lambda: ab.fold(resnet, example=x),
    }[kind]()
    expected = {}
    handles = [
        resnet.get_submodule(name).register_forward_hook(
            lambda m, args, out, name=name: expected.update({name: out})
        )
        for name in ("layer2.1", "fc")
    ]
    try:
        resnet(x)
    finally:
        for handle in handles:
            handle.remove()
    names = [*expected, "layer1.0.bn2"]
    found = create_feature_extractor(model, names)(x)
    for name, value in expected.items():
        torch.testing.assert_close(found[name], value, rtol=1e-4, atol=1e-5)
    assert type(found["layer1.0.bn2"]) is torch.Tensor  # a graph's node is no pending map
    with ab.disabled(resnet):
        assert (resnet(x) - found["fc"]).abs().max() > 1e-3  # the gates are in it
    traced = torch.fx.symbolic_trace(model)
    torch.testing.assert_close(traced(x), resnet(x), rtol=1e-4, atol=1e-5)


def test_a_fused_network_is_traced_in_training_mode_without_a_change(resnet):
    model = ab.fuse(copy.deepcopy(resnet)).train()
    before = copy.deepcopy(model.state_dict())
    traced = torch.fx.symbolic_trace(model)
    get_graph_node_names(model)
    assert all(torch.equal(before[k], v) for k, v in model.state_dict().items())
    x = torch.randn(3, 3, 64, 64)
    torch.manual_seed(0)
    expected = copy.deepcopy(model)(x)
    torch.testing.assert_close(traced(x), expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("kind", ["boosted", "fused", "folded"])
@pytest.mark.parametrize("name", ["mobilenetv2_035", "test_nfnet", "test_byobnet"])
def test_timm_networks_are_traced(name, kind):
    timm = pytest.importorskip("timm")
    x = torch.randn(2, 3, 64, 64)
    net = randomise(ab.boost(timm.create_model(name), example=x[:1])).eval()
    model = {
        "boosted": lambda: net,
        "fused": lambda: ab.fuse(copy.deepcopy(net), example=x),
        "folded": lambda: ab.fold(net, example=x),
    }[kind]()
    with torch.no_grad():
        torch.testing.assert_close(torch.fx.symbolic_trace(model)(x), net(x), rtol=1e-4, atol=1e-5)

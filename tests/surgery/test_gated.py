"""A gate acts however its module is run: compiled, exported, traced, checkpointed, as a feature."""

# N batch, C channels, H W space

from __future__ import annotations

import copy
import pickle

import pytest
import timm
import torch
import torchvision
from support.attaching import (
    boosted_copy,
    without_warnings,
)
from support.boosting import (
    images,
)
from support.gated_branches import (
    assert_gated,
)
from support.gates import stir
from support.networks import randomise
from torch import nn
from torchvision.models.feature_extraction import create_feature_extractor, get_graph_node_names

import accuracy_booster as ab
from accuracy_booster.blocks import TABLE
from accuracy_booster.surgery import Site, attach, attached, detach


def timm_resnet():
    model = randomise(timm.create_model("test_resnet", num_classes=6))
    return stir(ab.boost(model, "ab", example=images(1, 64))).eval()


def test_timms_methods_are_gated():
    model, x = timm_resnet(), images(2, 64)
    y = model(x)
    features = model.forward_features(x)
    assert torch.equal(model.forward_head(features), y)
    last, middle = model.forward_intermediates(x)
    assert torch.equal(last, features)
    assert torch.equal(middle[-1], features)
    with ab.disabled(model):
        assert not torch.allclose(model.forward_features(x), features, rtol=1e-2)
        assert not torch.allclose(model.forward_intermediates(x)[1][1], middle[1], rtol=1e-2)
    assert torch.equal(model.forward_head(features), y)
    model.reset_classifier(3)
    assert model(x).shape == (2, 3)
    assert torch.equal(model.forward_features(x), features)


def test_grad_checkpointing_is_gated():
    model, x = timm_resnet(), images(2, 64)
    other = copy.deepcopy(model)
    other.set_grad_checkpointing(True)
    for training in (False, True):
        y, z = model.train(training)(x), other.train(training)(x)
        torch.testing.assert_close(z, y)
    y.square().sum().backward()
    z.square().sum().backward()
    for p, q in zip(ab.added_parameters(model), ab.added_parameters(other), strict=True):
        torch.testing.assert_close(q.grad, p.grad, rtol=1e-3, atol=1e-4)


def test_features_only_is_gated():
    """A network of features that is boosted, and features of a boosted network."""
    from timm.models import FeatureListNet

    x = images(2, 64)
    only = randomise(timm.create_model("test_resnet", features_only=True)).eval()
    plain = only(x)
    stir(ab.boost(only, "ab", example=x[:1])).eval()
    names = list(attached(only))
    assert len(names) == len(attached(timm_resnet()))
    assert not torch.allclose(only(x)[-1], plain[-1], rtol=1e-2)
    with ab.disabled(only):
        assert all(torch.equal(a, b) for a, b in zip(only(x), plain, strict=True))
    model = timm_resnet()
    last = model.forward_features(x)
    features = FeatureListNet(copy.deepcopy(model), out_indices=(1, 2, 3, 4)).eval()
    assert torch.equal(features(x)[-1], last)


def test_torchvisions_feature_extractor_is_gated():
    from torchvision.models.feature_extraction import create_feature_extractor

    model, x = randomise(torchvision.models.resnet18(weights=None, num_classes=4)), images(2, 64)
    stir(ab.boost(model, "ab", example=x[:1])).eval()
    seen = {}
    handle = model.layer3.register_forward_hook(lambda m, a, y: seen.__setitem__("layer3", y))
    y = model(x)
    handle.remove()
    extract = create_feature_extractor(model, ["layer3", "fc"])
    got = extract(x)
    torch.testing.assert_close(got["layer3"], seen["layer3"])
    torch.testing.assert_close(got["fc"], y)
    with ab.disabled(model):
        assert not torch.allclose(model(x), y, rtol=1e-2)
    plain = create_feature_extractor(ab.unboost(copy.deepcopy(model)), ["layer3"])
    assert not torch.allclose(plain(x)["layer3"], got["layer3"], rtol=1e-2)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("tool", ["optimization.fuse", "fuse_fx", "prepare_fx"])
def test_fx_tools_keep_the_gates(resnet, tool):
    model, x, expected = resnet
    if tool == "optimization.fuse":
        from torch.fx.experimental.optimization import fuse

        assert_gated(fuse(model), x, expected)
        return
    from torch.ao.quantization import get_default_qconfig_mapping
    from torch.ao.quantization.quantize_fx import fuse_fx, prepare_fx

    if tool == "fuse_fx":
        assert_gated(fuse_fx(model), x, expected)
    else:
        assert_gated(prepare_fx(model, get_default_qconfig_mapping(), (x,)), x, expected)


def test_boosting_changes_no_setting_of_the_compiler():
    import subprocess
    import sys

    code = (
        "import torch; from torch import _dynamo; before = _dynamo.config.get_config_copy(); "
        "import accuracy_booster as ab; from accuracy_booster import surgery; "
        "net = torch.nn.Sequential(torch.nn.Conv2d(3, 4, 1), torch.nn.BatchNorm2d(4)); "
        "ab.boost(net, 'ab', where='conv', example=torch.zeros(1, 3, 8, 8)); "
        "assert _dynamo.config.get_config_copy() == before"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=120)


@without_warnings
def test_the_gate_scales_the_output_of_its_site(network):
    """Against the same network with the gates written into it by hand."""
    model, names, size = network
    gated = boosted_copy(model, names, size)
    by_hand = copy.deepcopy(model)
    for name in names:
        gate = copy.deepcopy(attached(gated)[name])
        by_hand.set_submodule(name, nn.Sequential(by_hand.get_submodule(name), gate))
    for training in (False, True):
        x = torch.randn(3, *size)
        y, expected = gated.train(training)(x), by_hand.train(training)(x)
        torch.testing.assert_close(y, expected)
    assert not torch.allclose(gated.eval()(x), model.eval()(x), rtol=1e-2)
    y.square().sum().backward()
    for name, gate in attached(gated).items():
        assert all(p.grad.abs().sum() > 0 for p in gate.parameters()), name


@without_warnings
@pytest.mark.parametrize("boosted_first", [False, True])
def test_compiling_one_of_two_networks_of_a_class_leaves_the_other_alone(boosted_first):
    """The rule: modules of one class are told apart by their hooks, whichever compiles first."""
    torch._dynamo.reset()
    x = torch.randn(4, 3, 16, 16)
    plain = ab.create_model("resnet8").eval()
    boosted = ab.boost(ab.create_model("resnet8"), "ab", where="residual").eval()
    with torch.no_grad():
        for gate in attached(boosted).values():
            for parameter in gate.parameters():
                parameter.normal_()
        assert not torch.allclose(detach(copy.deepcopy(boosted))(x), boosted(x), rtol=1e-2)
        order = [boosted, plain] if boosted_first else [plain, boosted]
        for _ in range(2):  # the second time from what was compiled
            for model in order:
                compiled = torch.compile(model, backend="eager")
                torch.testing.assert_close(compiled(x), model(x), rtol=0, atol=0)
    torch._dynamo.reset()


@without_warnings
@pytest.mark.parametrize("boosted_first", [False, True])
def test_a_network_that_is_boosted_after_compiling_or_detached(boosted_first):
    """The same object: the compiled call follows its gates on and off."""
    torch._dynamo.reset()
    x = torch.randn(4, 3, 16, 16)
    model = ab.create_model("resnet8").eval()
    names = model.recalibration_sites
    sites = [Site(name, model.get_submodule(name).num_features, (4, 4)) for name in names]
    if boosted_first:
        attach(model, "ab", sites)
    compiled = torch.compile(model, backend="eager")
    with torch.no_grad():
        first = compiled(x)
        torch.testing.assert_close(first, model(x), rtol=0, atol=0)
        if boosted_first:
            detach(model)
        else:
            attach(model, "ab", sites)
        assert not torch.equal(model(x), first)
        torch.testing.assert_close(compiled(x), model(x), rtol=0, atol=0)
    torch._dynamo.reset()


@without_warnings
def test_compile_and_export_keep_the_gates():
    torch._dynamo.reset()
    model = ab.create_model("resnet8")
    names = model.recalibration_sites
    model = boosted_copy(model, names, (3, 16, 16))
    x = torch.randn(3, 3, 16, 16)
    plain = copy.deepcopy(model)
    compiled = torch.compile(model, backend="aot_eager", fullgraph=True)
    y, expected = compiled.train()(x), plain.train()(x)
    torch.testing.assert_close(y, expected)
    y.square().sum().backward()
    expected.square().sum().backward()
    for (name, mine), other in zip(model.named_parameters(), plain.parameters(), strict=True):
        torch.testing.assert_close(mine.grad, other.grad, rtol=1e-3, atol=1e-3, msg=name)
    expected = plain.eval()(x)
    torch.testing.assert_close(compiled.eval()(x), expected)
    program = torch.export.export(plain, (x,))
    torch.testing.assert_close(program.module()(x), expected)
    assert not torch.allclose(detach(plain)(x), expected, rtol=1e-2)


pytestmark = pytest.mark.filterwarnings("ignore")
RECIPES = [*TABLE, "ab_g2", "gather(2) | sigmoid", "gather(4, learned=true) | sigmoid"]


def randomise_gates(model: nn.Module) -> nn.Module:
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
def traced_resnet():
    torch.manual_seed(1)
    return randomise_gates(ab.boost(torchvision.models.resnet18())).eval()


@pytest.mark.parametrize("kind", ["boosted", "fused", "folded"])
def test_features_of_a_resnet(traced_resnet, kind):
    x = torch.randn(2, 3, 64, 64)
    model = {
        "boosted": lambda: traced_resnet,
        "fused": lambda: ab.fuse(copy.deepcopy(traced_resnet)),
        "folded": lambda: ab.fold(traced_resnet, example=x),
    }[kind]()
    expected = {}
    handles = [
        traced_resnet.get_submodule(name).register_forward_hook(
            lambda m, args, out, name=name: expected.update({name: out})
        )
        for name in ("layer2.1", "fc")
    ]
    try:
        traced_resnet(x)
    finally:
        for handle in handles:
            handle.remove()
    names = [*expected, "layer1.0.bn2"]
    found = create_feature_extractor(model, names)(x)
    for name, value in expected.items():
        torch.testing.assert_close(found[name], value, rtol=1e-4, atol=1e-5)
    assert type(found["layer1.0.bn2"]) is torch.Tensor  # a graph's node is no deferred map
    with ab.disabled(traced_resnet):
        assert (traced_resnet(x) - found["fc"]).abs().max() > 1e-3  # the gates are in it
    traced = torch.fx.symbolic_trace(model)
    torch.testing.assert_close(traced(x), traced_resnet(x), rtol=1e-4, atol=1e-5)


def test_a_fused_network_is_traced_in_training_mode_without_a_change(traced_resnet):
    model = ab.fuse(copy.deepcopy(traced_resnet)).train()
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
    net = randomise_gates(ab.boost(timm.create_model(name), example=x[:1])).eval()
    model = {
        "boosted": lambda: net,
        "fused": lambda: ab.fuse(copy.deepcopy(net), example=x),
        "folded": lambda: ab.fold(net, example=x),
    }[kind]()
    with torch.no_grad():
        torch.testing.assert_close(torch.fx.symbolic_trace(model)(x), net(x), rtol=1e-4, atol=1e-5)

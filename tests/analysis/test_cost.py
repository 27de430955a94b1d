"""`ab.complexity` against the paper's numbers; sizes, batches, and that nothing changes."""

# N batch, C channels, H W space

from __future__ import annotations

import warnings

import pytest
import timm
import torch
import torchvision
from support.costs import (
    RESNET50,
    WRN18,
    on_meta,
)
from timm.layers import StdConv2d
from torch import nn

import accuracy_booster as ab
from accuracy_booster.analysis.cost import _pass
from accuracy_booster.surgery import attached


@pytest.mark.parametrize(
    ("name", "recipe", "parameters", "macs"),
    [
        (RESNET50, "se", 28_088_024, 3_860_488_192),
        (RESNET50, "cbam", 28_089_624, 3_864_362_102),
        (WRN18, "se", 45_970_456, 6_696_054_784),
        (WRN18, "cbam", 45_971_256, 6_697_219_284),
    ],
)
def test_parameters_with_the_blocks_biases(name, recipe, parameters, macs):
    cost = ab.complexity(on_meta(name, recipe))
    assert (cost.parameters, cost.macs) == (parameters, macs)


@pytest.mark.parametrize("recipe", [None, "ab", "se"])
def test_all_but_parameters_grows_with_the_batch(recipe):
    model = on_meta("resnet18", recipe)
    one, many = (ab.complexity(model, batch_size=batch) for batch in (1, 64))
    assert (many.parameters, many.weights, many.batch_size) == (one.parameters, one.weights, 64)
    for name in ("macs", "flops", "activations"):
        assert getattr(many, name) == 64 * getattr(one, name)
        for few, lots in zip(one.blocks, many.blocks, strict=True):
            assert getattr(lots, name) == 64 * getattr(few, name)
    assert many.rtm - one.rtm == 4 * 63 * one.activations


def standardised() -> nn.Module:
    return nn.Sequential(StdConv2d(3, 8, 3), nn.ReLU(), StdConv2d(8, 4, 3))


@pytest.mark.parametrize(
    ("make", "size"),
    [(standardised, (3, 9, 9)), (lambda: timm.create_model("resnetv2_50"), (3, 64, 64))],
    ids=["small", "resnetv2_50"],
)
@pytest.mark.parametrize("batch", [2, 5])
def test_what_is_made_of_weights_alone_counts_once_a_batch(make, size, batch):
    """Extrapolated from one and two images, it is what a pass of that batch counts."""
    with torch.device("meta"):
        model = make()
    cost, direct = (
        ab.complexity(model, size, batch_size=batch),
        _pass(model, torch.zeros(batch, *size), "").total,
    )
    assert +cost.count.maps == +direct.maps
    assert +cost.count.vectors == +direct.vectors
    assert (cost.macs, cost.flops, cost.activations) == (direct.macs, direct.flops, direct.outputs)
    if make is standardised:
        assert cost.flops < batch * ab.complexity(model, size).flops


def state(model: nn.Module) -> tuple:
    modules = list(model.modules())
    hooks = [(len(m._forward_hooks), len(m._forward_pre_hooks)) for m in modules]
    enabled = [gate.enabled for gate in attached(model).values()]
    return [m.training for m in modules], hooks, enabled, [p.grad for p in model.parameters()]


@pytest.mark.parametrize("size", [(3, 16, 16), (1, 16, 16)], ids=["counted", "refused"])
def test_nothing_of_the_model_changes(size):
    model = ab.create_model("resnet8", block="cbam").train()
    model.fc = nn.Sequential(nn.Dropout(0.5), model.fc)
    model.layer2.eval()
    before = state(model)
    tensors = {name: value.clone() for name, value in model.state_dict().items()}
    random = torch.get_rng_state()
    if size[0] == 3:
        ab.complexity(model, size, batch_size=4)
    else:
        with pytest.raises(ValueError, match="3 channels"):
            ab.complexity(model, size)
    assert state(model) == before
    assert torch.equal(torch.get_rng_state(), random)
    after = model.state_dict()
    assert list(after) == list(tensors)
    for name, value in tensors.items():
        assert torch.equal(after[name], value), name


@pytest.mark.parametrize(
    ("name", "recipe", "options"),
    [
        ("resnet8", "cbam", {}),
        ("resnet8", "design_h_bn", {"input_size": (3, 24, 24)}),
        ("shufflenet_g3", "se", {}),
        ("timm/mobilenetv3_small_100", "eca", {}),
        ("torchvision/resnet18", "ab", {}),
    ],
)
def test_a_network_with_real_weights_costs_what_it_does_on_meta(name, recipe, options):
    size = options.get("input_size", (3, 64, 64))
    costs = []
    for device in ("cpu", "meta"):
        with torch.device(device), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # networks that have attention modules
            model = ab.create_model(name, block=recipe, **options)
            costs.append(ab.complexity(model, size, batch_size=3).to_dict())
    assert costs[0] == costs[1]


@pytest.mark.parametrize(
    ("name", "size"),
    [
        ("resnet8", (3, 32, 32)),
        ("shufflenet_g3", (3, 224, 224)),
        ("timm/test_vit", (3, 160, 160)),
        ("torchvision/resnet18", (3, 224, 224)),
    ],
)
def test_the_size_is_the_networks_own(name, size):
    assert ab.complexity(on_meta(name)).input_size == size


def test_images_of_other_channels():
    assert ab.complexity(on_meta("shufflenet_g3", in_chans=1)).input_size == (1, 224, 224)
    assert ab.complexity(nn.Conv2d(5, 2, 1)).input_size == (5, 224, 224)


@pytest.mark.parametrize("around", [torch.no_grad, torch.inference_mode, torch.enable_grad])
def test_the_callers_mode_makes_no_difference(around):
    model = ab.create_model("resnet8", block="se")
    with around():
        cost = ab.complexity(model)
    assert cost.to_dict() == ab.complexity(model).to_dict()


TINY = nn.Sequential(nn.Conv2d(3, 2, 5), nn.Conv2d(2, 2, 5))


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"convention": "mac+nrom"}, r"'mac\+nrom'.*mac\+norm"),
        ({"convention": "flops"}, r"'flops'.*mac\+norm"),
        ({"convention": "mac+norm+norm"}, r"mac\+norm\+norm"),
        ({"convention": "norm"}, "'norm'"),
        ({"input_size": (3, 8)}, r"\[1, 3, 8\].*\(C, H, W\)"),
        ({"input_size": ()}, r"input_size=\(\) must be whole numbers.*\(C, H, W\)"),
        ({"input_size": (3, 0, 8)}, r"\(3, 0, 8\).*\(C, H, W\)"),
        ({"input_size": (3, 8.5, 8)}, r"8\.5.*\(C, H, W\)"),
        ({"input_size": 224}, r"224.*\(C, H, W\)"),
        ({"input_size": (1, 16, 16)}, r"\[1, 1, 16, 16\].*input_size"),
        ({"input_size": (3, 8, 8)}, r"\[1, 3, 8, 8\].*input_size"),
        ({"batch_size": 0}, "batch_size=0"),
        ({"batch_size": True}, "batch_size=True"),
        ({"batch_size": 1.5}, "batch_size=1.5"),
        ({"model": "resnet8"}, "expected an nn.Module, got str"),
        ({"model": torchvision.models.Inception3, "input_size": (3, 32, 32)}, "Inception3 cannot"),
    ],
)
def test_bad_arguments_get_one_line(given, message):
    given = {"model": TINY, **given}
    if isinstance(given["model"], type):
        with torch.device("meta"):
            given["model"] = given["model"](init_weights=False)
    with pytest.raises(ValueError, match=message) as caught:
        ab.complexity(**given)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("recipe", ["ge_theta", "design_h"])
def test_a_gate_of_one_size_refuses_images_of_another(recipe):
    model = on_meta("resnet8", recipe, input_size=(3, 16, 16))
    assert ab.complexity(model, (3, 16, 16)).blocks
    with pytest.raises(ValueError, match=r"16x16 map and got a 24x24 map.*input_size") as caught:
        ab.complexity(model, (3, 24, 24))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("model", "recipe", "macs"),
    [  # /shared/paper/counting.md; sum C = 8,064 and sum C^2 = 1,548,288 for ResNet-164
        ("resnet56", None, 125_491_456),
        ("resnet164", None, 247_669_760),
        ("resnet164v1", None, 244_524_032),
        ("resnet164v1", "ab", 244_524_032 + 8_064),
        ("resnet164v1", "ab_g16", 244_524_032 + 1_548_288 // 16),
        ("resnet164v1", "ab_plus", 244_524_032 + 1_548_288),
    ],
)
def test_complexity(model, recipe, macs):
    network = ab.create_model(model, block=recipe, num_classes=100)
    network.train()
    before = {k: v.clone() for k, v in network.state_dict().items()}
    cost = ab.complexity(network, (3, 32, 32))
    assert cost.macs == pytest.approx(macs, rel=2e-5)
    assert cost.parameters == sum(p.numel() for p in network.parameters())
    assert network.training
    assert all((v == before[k]).all() for k, v in network.state_dict().items())

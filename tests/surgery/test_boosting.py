"""Boosting changes nothing but what was asked for, and everything can be undone."""

# N batch, C channels, H W space

from __future__ import annotations

import copy
import re

import pytest
import timm
import torch
from support.boosted_in_two_processes import run_ddp
from support.boosting import (
    EXAMPLE,
    MARK,
    SIDE,
    SITES,
    ResidualNet,
    assert_same_state,
    gated,
    hook_count,
    images,
    named,
    net,
    snapshot,
)
from support.gates import stir
from support.networks import randomise
from torch import nn

import accuracy_booster as ab
from accuracy_booster.blocks.recalibrate import Gate
from accuracy_booster.surgery import attached

RECIPES = [
    *["ab", "ab_plus", "ab_g4", "se", "eca", "cbam", "ge_theta_plus", "dw3_bn", "ab_nobn"],
    *["ge_theta", "ge_theta_plus_ab", "design_f", "design_g_bn", "design_i", "design_m"],
    "gap | bottleneck(4) | bn | sigmoid",
    "gap + gmp | dense(groups=C) | bn | sigmoid",
    "gather(2, learned=true) | sigmoid",
    "gap | dense | bn | dense | sigmoid",
    "gap | bn | dense(groups=C) | sigmoid ; channel_pool | conv2d(3) | sigmoid",
]
NETWORKS = {  # how to build it, its side
    "ours": (net, SIDE),
    "test_convnext": (lambda: timm.create_model("test_convnext", drop_path_rate=0.2), 32),
    "test_nfnet": (lambda: timm.create_model("test_nfnet", drop_path_rate=0.2), 32),
    "mobilenetv2_035": (lambda: timm.create_model("mobilenetv2_035"), 32),
    "test_resnet": (lambda: timm.create_model("test_resnet"), 64),
}


def assert_identical(plain, boosted, x):
    for training in (False, True):
        torch.manual_seed(5)
        expected = plain.train(training)(x)
        torch.manual_seed(5)
        assert torch.equal(boosted.train(training)(x), expected)
    for (name, value), (_, again) in zip(plain.named_buffers(), base_buffers(boosted), strict=True):
        assert torch.equal(value, again), name  # running statistics as well


def base_buffers(model):
    return [(n, b) for n, b in model.named_buffers() if MARK not in f".{n}"]


@pytest.mark.parametrize("recipe", RECIPES)
def test_identity_is_bit_for_bit(recipe):
    plain = net()
    boosted = ab.boost(copy.deepcopy(plain), recipe, example=EXAMPLE, init="identity")
    for key, value in plain.state_dict().items():
        assert torch.equal(boosted.state_dict()[key], value)
    assert_identical(plain, boosted, images())


@pytest.mark.filterwarnings("ignore:.*attention:UserWarning")
@pytest.mark.parametrize("recipe", ["ab", "cbam", "ge_theta_plus"])
@pytest.mark.parametrize("name", [name for name in NETWORKS if name != "ours"])
def test_identity_is_bit_for_bit_in_other_networks(name, recipe):
    build, side = NETWORKS[name]
    plain, x = randomise(build()), images(3, side)
    boosted = copy.deepcopy(plain)
    ab.boost(boosted, recipe, example=x[:1], init="identity")
    assert_identical(plain, boosted, x)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float64])
def test_identity_is_bit_for_bit_in_other_dtypes(dtype):
    plain = net().to(dtype)
    boosted = ab.boost(copy.deepcopy(plain), "ab", example=EXAMPLE, init="identity")
    assert_identical(plain, boosted, images().to(dtype))


@pytest.mark.parametrize("recipe", RECIPES)
def test_one_factor_starts_at_zero_and_every_parameter_learns(recipe):
    model = net(64).double()  # 64: four hidden units in the smallest bottleneck
    ab.boost(model, recipe, example=EXAMPLE, init="identity").train()
    for site in attached(model).values():
        for gate in site.modules():
            if isinstance(gate, Gate):
                layers = [m for m in gate.modules() if getattr(m, "weight", None) is not None]
                assert sum(not m.weight.any() for m in layers) == 1
    added = ab.added_parameters(model)
    start = [p.detach().clone() for p in added]
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05)
    x, labels = images(8).double(), torch.arange(8) % 5
    for _ in range(3):
        optimizer.zero_grad()
        nn.functional.cross_entropy(model(x), labels).backward()
        assert all(p.grad is not None for p in added)
        optimizer.step()
    names = [n for n, p in named(model) if any(p is q for q in added)]
    still = [n for n, p, q in zip(names, added, start, strict=True) if torch.equal(p, q)]
    # a bias before a batch norm has no effect, so nothing to learn
    dead = ("gather.bias", "expand.bias") if " bn" in str(ab.recipe(recipe)) else ()
    assert [name for name in still if not name.endswith(dead or ("none",))] == []
    seen = {}
    for name, site in attached(model).items():
        site.register_forward_hook(
            lambda m, args, y, key=name: seen.__setitem__(key, (y / args[0]).detach())
        )
    model.eval()(x)
    for name, ratio in seen.items():
        spread = (ratio - ratio[:1]).nan_to_num().abs().amax()
        assert spread > 1e-12, f"{name} treats every sample alike"


@pytest.mark.parametrize("recipe", ["ab", "cbam", "ge_theta_plus"])
def test_unboost_gives_back_the_network(recipe):
    model = net().train()
    model.layers[1].eval()
    x = images()
    before, expected = snapshot(model), copy.deepcopy(model).eval()(x)
    ab.boost(model, recipe, example=EXAMPLE)
    stir(model)
    assert not torch.allclose(copy.deepcopy(model).eval()(x), expected, rtol=1e-2)
    random_state = before["rng"]
    assert ab.unboost(model) is model
    torch.set_rng_state(random_state)  # gates draw their weights
    assert_same_state(snapshot(model), before)
    assert torch.equal(model.eval()(x), expected)
    with pytest.raises(ValueError, match="no gates"):
        ab.unboost(model)


def test_added_parameters_are_those_of_the_gates():
    model = gated("cbam")
    added = {id(p) for p in ab.added_parameters(model)}
    assert added == {id(p) for n, p in named(model) if MARK in n}
    assert ab.added_parameters(net()) == []


def test_the_base_checkpoint_loads_before_and_after():
    base, other = net(), net()
    model = ab.boost(copy.deepcopy(base), "ab", example=EXAMPLE)
    keys = list(model.state_dict())
    assert [key for key in keys if MARK not in key] == list(base.state_dict())
    missing, unexpected = model.load_state_dict(other.state_dict(), strict=False)
    assert all(MARK in key for key in missing)
    assert unexpected == []
    x = images()
    with ab.disabled(model):
        assert torch.equal(model.eval()(x), other.eval()(x))
    loaded = base.load_state_dict(
        {k: v for k, v in model.state_dict().items() if MARK not in k}, strict=True
    )
    assert loaded.missing_keys == []


@pytest.mark.parametrize("where", ["residual", "conv", "attention", ["layers.0.bn2"]])
@pytest.mark.filterwarnings("ignore:.*attention:UserWarning")
def test_a_gate_is_not_gated_again(where):
    model = gated()
    before = snapshot(model)
    with pytest.raises(ValueError):
        ab.boost(model, "ab", example=EXAMPLE, where=where)
    assert_same_state(snapshot(model), before)


@pytest.mark.filterwarnings("error")
def test_further_sites_of_a_boosted_network_can_be_boosted():
    """Its own gates are no attention modules to warn of."""
    model, x = net().eval(), images()
    expected = model(x)
    ab.boost(model, "ab", example=EXAMPLE, where=["norm"])
    ab.boost(model, "ab", example=EXAMPLE)
    assert list(attached(model)) == ["norm", *SITES]
    assert torch.equal(ab.unboost(model)(x), expected)
    assert hook_count(model) == 0


@pytest.mark.parametrize("recipe", ["ab_g3", "abb", "gap | dense", "ab_g32"])
def test_a_recipe_that_does_not_fit_leaves_the_network_alone(recipe):
    model = net()
    before = snapshot(model)
    with pytest.raises(ValueError):
        ab.boost(model, recipe, example=EXAMPLE)
    assert_same_state(snapshot(model), before)


def test_meta_then_real():
    source, x = gated(), images()
    with torch.device("meta"):
        model = ResidualNet()
    ab.boost(model, "ab", example=EXAMPLE)
    assert {t.device.type for t in model.state_dict().values()} == {"meta"}
    model.to_empty(device="cpu").load_state_dict(source.state_dict())
    assert torch.equal(model.eval()(x), source(x))


def test_freezing_by_name_prefix():
    model = gated().train()
    for name, value in named(model):
        value.requires_grad_(MARK in name)
    model(images()).square().sum().backward()
    assert {n for n, p in named(model) if p.grad is not None} == {
        n for n, _ in named(model) if MARK in n
    }
    model = gated()
    for name, value in named(model):
        value.requires_grad_(not name.startswith("layers.0."))
    assert not any(p.requires_grad for p in attached(model)["layers.0.bn2"].parameters())
    assert all(p.requires_grad for p in attached(model)["layers.1.bn2"].parameters())


@pytest.mark.skipif(not torch.distributed.is_gloo_available(), reason="needs gloo")
def test_two_processes(tmp_path):
    torch.multiprocessing.spawn(run_ddp, (str(tmp_path / "store"), str(tmp_path)), nprocs=2)
    one, other = (torch.load(tmp_path / f"{rank}.pt", weights_only=False) for rank in (0, 1))
    assert any(MARK in name for name in one["parameters"])
    for name, value in one["parameters"].items():
        assert torch.equal(value, other["parameters"][name]), name
    assert re.search(r"DistributedDataParallel.*model\.module", one["refused"])


@pytest.mark.parametrize("name", ["timm/resnet18", "torchvision/resnet18"])
def test_create_model_boosts_the_networks_of_libraries(name):
    torch.manual_seed(1)
    plain = ab.create_model(name, num_classes=7).eval()
    torch.manual_seed(1)
    model = ab.create_model(name, block="ab", init="identity", num_classes=7).eval()
    assert len(attached(model)) == 8
    for key, value in plain.state_dict().items():
        assert torch.equal(model.state_dict()[key], value)
    x = images(2, 64)
    assert model(x).shape == (2, 7)
    assert torch.equal(model(x), plain(x))


@pytest.mark.parametrize("name", ["timm/resnet188", "torchvision/resnet188"])
def test_create_model_names_the_nearest(name):
    with pytest.raises(ValueError, match=r"resnet188.*resnet18"):
        ab.create_model(name)


PRETRAINED = ["timm/test_resnet", "torchvision/shufflenet_v2_x0_5"]


def patch_weights(monkeypatch, load):
    import timm.models._builder as builder
    from torchvision.models import WeightsEnum

    for place in ("load_state_dict_from_hf", "load_state_dict_from_url"):
        monkeypatch.setattr(builder, place, load)
    monkeypatch.setattr(WeightsEnum, "get_state_dict", load)


@pytest.mark.parametrize("name", PRETRAINED)
@pytest.mark.parametrize("error", [OSError("no route\nto host"), RuntimeError("hash"), OSError()])
def test_weights_that_cannot_be_had_are_told_in_one_line(monkeypatch, name, error):
    def refuse(*args, **kwargs):
        raise error

    patch_weights(monkeypatch, refuse)
    with pytest.raises(ValueError, match=re.escape(name)) as caught:
        ab.create_model(name, pretrained=True, block="ab", init="identity")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", PRETRAINED)
def test_pretrained_weights_survive_boosting(monkeypatch, tmp_path, name):
    base = randomise(ab.create_model(name)).eval()
    torch.save(base.state_dict(), tmp_path / "weights.pt")
    patch_weights(monkeypatch, lambda *a, **k: torch.load(tmp_path / "weights.pt"))
    model = ab.create_model(name, pretrained=True, block="ab", init="identity").eval()
    assert attached(model)
    x = images(2, 64)
    assert torch.equal(model(x), base(x))
    other = ab.create_model(name, pretrained=True, block="ab", num_classes=7)
    shared = [k for k, v in base.state_dict().items() if v.shape == other.state_dict()[k].shape]
    assert len(shared) >= len(base.state_dict()) - 2
    for key in shared:
        assert torch.equal(other.state_dict()[key], base.state_dict()[key]), key
    assert other.eval()(x).shape == (2, 7)


def test_a_public_network_computes_the_same_after_boosting_with_identity(shared):
    """ResNet-20 with weights that nobody here trained, on real images: every logit, bit for bit."""
    from accuracy_booster.data import load_data, normalise
    from accuracy_booster.models import from_akamaster

    stored = torch.load(
        shared / "weights/resnet20_cifar10.th", weights_only=True, map_location="cpu"
    )
    model = ab.create_model("resnet20").eval()
    model.load_state_dict(from_akamaster(stored["state_dict"]))
    data = load_data(shared / "data/cifar10", splits=("test",), eval_batch_size=256)
    pixels, labels = next(iter(data.loaders["test"]))
    x = normalise(pixels, data.mean, data.std)
    with torch.no_grad():
        before = model(x)
        after = ab.boost(model, "ab", init="identity").eval()(x)
    assert len(ab.surgery.attached(model)) == 9
    assert torch.equal(before, after)
    assert (after.argmax(1) == labels).float().mean() > 0.85


@pytest.mark.parametrize("gates", [False, True])
def test_freeze_norms_does_what_is_meant(resnet, gates):
    model, x, _ = resnet
    assert ab.freeze_norms(model.train(), gates=gates) is model
    inside = {id(m) for gate in attached(model).values() for m in gate.modules()}
    for module in model.modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm):
            learns = id(module) in inside and not gates
            assert module.training is learns
            assert module.weight.requires_grad is learns
    assert all(g[0].dense.weight.requires_grad for g in attached(model).values())
    before = copy.deepcopy(model.state_dict())
    model(x).sum().backward()
    moved = {k for k, v in model.state_dict().items() if not torch.equal(v, before[k])}
    assert moved == set() if gates else all(".recalibrate." in k for k in moved)
    assert bool(moved) is not gates

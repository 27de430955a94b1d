"""`ab.merge`: a merged network computes what gates that give constants compute, in float64."""

# N batch, C channels, H W space

from __future__ import annotations

import copy
import pickle

import pytest
import torch
from support.gated_networks import NETWORKS, difference, images, network
from support.merged_networks import (
    IN_FLOAT64,
    LayerNet,
    boosted,
    constants,
    marks,
    with_constants,
)
from support.networks import randomise
from support.strictness import WARNINGS_ARE_ERRORS
from torch import nn

import accuracy_booster as ab
from accuracy_booster.fastpath import scalable_layers
from accuracy_booster.surgery import attached

pytestmark = WARNINGS_ARE_ERRORS


@pytest.mark.parametrize("recipe", ["ab", "se"])
@pytest.mark.parametrize("name", [n for n in NETWORKS if n != "preact11"])
def test_a_merged_network_is_the_one_with_constant_gates(name, recipe):
    model, x = network(name, recipe), images(name)
    given = constants(model)
    assert len(given) == NETWORKS[name][1]
    merged = ab.merge(model, given)
    assert difference(with_constants(model, given), merged, x) < IN_FLOAT64
    assert difference(model, merged, x) > 1e-6  # the constants are others than the gates gave
    base = network(name, None)
    assert {k: v.shape for k, v in merged.state_dict().items()} == {
        k: v.shape for k, v in base.state_dict().items()
    }
    assert list(merged.state_dict()) == list(base.state_dict())
    assert marks(merged) == marks(base)
    assert set(merged.__dict__) == set(base.__dict__)
    base.load_state_dict(merged.state_dict())
    with torch.no_grad():
        assert torch.equal(base(x), merged(x))


@pytest.mark.parametrize("train", [False, True])
def test_some_gates_are_merged_and_the_others_stay(train):
    model, x = network(), images(n=4)
    given = constants(model)
    one, two, three = given
    some = ab.merge(model.train(train), given, at=[one, three])
    assert list(attached(some)) == [two]
    assert {m.training for m in some.modules()} == {train}
    kept = {name: p for name, p in given.items() if name != two}
    assert difference(with_constants(model, kept), some, x) < IN_FLOAT64
    # and from a mapping of one site alone
    part = ab.merge(some, {two: given[two]})
    assert attached(part) == {}
    assert difference(with_constants(model, given), part, x) < IN_FLOAT64
    assert difference(model, ab.merge(model, given, at=[]), x) == 0
    assert list(attached(ab.merge(model, given, at=two))) == [one, three]


def test_a_gate_that_is_constant_merges_exactly():
    """The weight of its last norm is 0, so each weight is sigmoid(beta), whatever the image."""
    model, x = network(), images()
    given = {}
    with torch.no_grad():
        for name, gate in attached(model).items():
            gate[0].bn.weight.zero_()
            given[name] = torch.sigmoid(gate[0].bn.bias)
    assert difference(model, ab.merge(model, given), x) < IN_FLOAT64


def test_the_model_itself_does_not_change():
    model, x = network(), images()
    before, state = marks(model), copy.deepcopy(model.state_dict())
    with torch.no_grad():
        y = model(x)
        merged = ab.merge(model, constants(model))
        for value in merged.parameters():
            value.zero_()
        assert torch.equal(model(x), y)
    assert marks(model) == before
    assert all(torch.equal(v, state[k]) for k, v in model.state_dict().items())


def test_flags_types_and_formats_stay():
    model = network().to(memory_format=torch.channels_last)
    model.layer1[0].bn2.weight.requires_grad_(False)
    model.layer1.eval()
    model.layer2.train()
    merged = ab.merge(model, constants(model))
    own = dict(model.named_parameters())
    for name, value in merged.named_parameters():
        assert value.requires_grad == own[name].requires_grad
        assert value.stride() == own[name].stride()
        assert type(value) is nn.Parameter
    training = {name: m.training for name, m in model.named_modules()}
    assert all(m.training == training[name] for name, m in merged.named_modules())
    half = ab.merge(network().bfloat16(), constants(model))
    assert {p.dtype for p in half.parameters()} == {torch.bfloat16}


def test_it_trains():
    model, x = network(), images(n=4)
    given = constants(model)
    merged, alike = ab.merge(model, given).train(), with_constants(model, given).train()
    grads = []
    for other in (merged, alike):
        given = x.clone().requires_grad_()
        other(given).square().sum().backward()
        grads.append(given.grad)
    torch.testing.assert_close(*grads, rtol=1e-9, atol=1e-12)
    assert all(p.grad is not None for p in merged.parameters())
    # the running statistics of norms move alike
    for name, buffer in merged.named_buffers():
        torch.testing.assert_close(buffer, alike.get_buffer(name))


def test_copies_compilers_and_exporters():
    model, x = network(), images()
    merged = ab.merge(model, constants(model))
    with torch.no_grad():
        y = merged(x)
        for other in (
            copy.deepcopy(merged),
            pickle.loads(pickle.dumps(merged)),
            torch.export.export(merged, (x,)).module(),
            torch.fx.symbolic_trace(merged),
        ):
            torch.testing.assert_close(other(x), y, rtol=1e-11, atol=1e-12)
    assert b"accuracy_booster.surgery" not in pickle.dumps(merged)


def test_a_fused_network_merges():
    model, x = network(), images()
    given = constants(model)
    fused = ab.fuse(copy.deepcopy(model), example=x[:1])
    merged = ab.merge(fused, given)
    assert marks(merged) == marks(ab.merge(model, given))
    assert difference(with_constants(model, given), merged, x) < IN_FLOAT64
    with pytest.raises(ValueError, match="neither fused nor folded"):
        ab.fast_path(merged)


def test_it_can_be_boosted_fused_and_saved_again(tmp_path):
    model, x = network(), images()
    merged = ab.merge(model, constants(model))
    plain = copy.deepcopy(merged)
    ab.boost(merged, "ab", init="identity", example=x[:1].float())
    assert difference(plain, merged, x) == 0
    ab.save(merged, tmp_path / "gates")  # with no warning that the base was trained
    ab.load(copy.deepcopy(plain), tmp_path / "gates")


@pytest.mark.parametrize("name", ["resnet8", "timm/efficientnet_lite0", "wrn10_1"])
def test_folding_with_constant_gates(name):
    model, x = network(name), images(name)
    given = constants(model)
    wanted = with_constants(model, given)
    folded = ab.fold(model, static=given, example=x[:1], verify=True)
    assert difference(wanted, folded, x) < 1e-10
    report = ab.fast_path(folded)
    assert [p.how for p in report.places] == ["merged as a constant"] * len(given)
    assert [p.name for p in report.places] == list(given)
    assert report.taken == len(given)
    assert difference(ab.fold(ab.merge(model, given), example=x[:1]), folded, x) == 0
    fused = ab.fuse(copy.deepcopy(model), example=x[:1])
    again = ab.fold(fused, static=given, example=x[:1], verify=True)
    assert difference(folded, again, x) < 1e-10


def test_folding_the_gates_that_are_not_constant():
    model, x = network(), images()
    given = constants(model)
    first, *others = given
    given = {first: given[first]}
    folded = ab.fold(model, static=given, example=x[:1], verify=True)
    assert difference(with_constants(model, given), folded, x) < 1e-10
    places = {p.name: p for p in ab.fast_path(folded).places}
    assert list(places) == [first, *others]
    assert all(p.fast for p in places.values())
    assert all("the gate from the mean" in places[name].how for name in others)


def test_folding_where_a_gate_cannot_be_constant():
    x = torch.randn(3, 6, 5, 4, dtype=torch.float64)
    model, given = boosted(LayerNet(nn.BatchNorm2d(6), nn.ReLU6()), x, ["layers.0", "layers.1"])
    with pytest.warns(UserWarning, match=r"'layers\.1' \(no weight of a ReLU6"):
        folded = ab.fold(model, static=given, example=x[:1], verify=True)
    del given["layers.1"]
    assert difference(with_constants(model, given), folded, x) < 1e-10
    places = ab.fast_path(folded).places
    assert [(p.fast, p.extra_reduction) for p in places] == [(True, False), (True, True)]


def test_verifying_finds_a_wrong_merge(monkeypatch):
    model, x = network(), images()
    real = scalable_layers.scale
    monkeypatch.setattr(scalable_layers, "scale", lambda module, p: real(module, p + 1e-3))
    with pytest.raises(RuntimeError, match="from the exact output"):
        ab.fold(model, static=constants(model), example=x[:1], verify=True)


@pytest.mark.parametrize(
    ("recipe", "why"),
    [
        ("cbam", "2 gates in turn"),
        ("design_j", "a weight for each position"),
        ("channel_pool | conv2d(3) | sigmoid", "a weight for each position"),
    ],
)
def test_gates_that_are_no_factor_per_channel(recipe, why):
    model, x = network(recipe=recipe), images()
    with pytest.warns(UserWarning, match=rf"'layer3\.0\.bn2' \(.*{why}"):
        new = ab.merge(model, constants(model))
    assert difference(model, new, x) == 0
    with pytest.raises(ValueError, match=why):
        ab.merge(model, constants(model), at=attached(model))


def test_an_attention_module_that_was_replaced():
    model = ab.create_model(
        "timm/seresnet18", block="ab", where="attention", num_classes=5, input_size=(3, 32, 32)
    )
    model, x = (
        randomise(model, signs=True).double().eval(),
        torch.randn(2, 3, 32, 32, dtype=torch.float64),
    )
    with pytest.warns(UserWarning, match=r"and \d more \(no weight of a Replaced"):
        new = ab.merge(model, constants(model))
    assert difference(model, new, x) == 0
    assert len(attached(new)) == len(attached(model)) == 8


def test_one_error_names_all_sites():
    x = torch.randn(3, 6, 5, 4, dtype=torch.float64)
    net = LayerNet(nn.Sigmoid(), nn.BatchNorm2d(6), nn.BatchNorm2d(6, affine=False))
    model, given = boosted(net, x, ["layers.0", "layers.1", "layers.2"])
    with pytest.raises(ValueError) as caught:
        ab.merge(model, given, at=given)
    assert "'layers.0' (no weight of a Sigmoid" in str(caught.value)
    assert "'layers.2' (the BatchNorm2d has no weight" in str(caught.value)
    assert "layers.1" not in str(caught.value)

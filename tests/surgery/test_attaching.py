"""Gates go on named modules and off again; names, checkpoints and outputs of the base stay."""

# N batch, C channels, H W space

from __future__ import annotations

import copy
import io
import pickle
import re

import pytest
import torch
from support.attaching import (
    NETWORKS,
    Tiny,
    boosted_copy,
    measure,
    traces,
    without_warnings,
)
from support.boosting import (
    EXAMPLE,
    gated,
    images,
    net,
)
from support.gates import stir
from torch import nn

import accuracy_booster as ab
from accuracy_booster.blocks import TABLE
from accuracy_booster.surgery import ATTRIBUTE, Site, attach, attached, detach


def test_disabled_compares():
    model, x = net(), images()
    expected = copy.deepcopy(model).eval()(x)
    boosted = stir(ab.boost(model, "ab", example=EXAMPLE)).eval()
    y = boosted(x)
    with ab.disabled(boosted) as same:
        assert same is boosted
        assert torch.equal(boosted(x), expected)
        with ab.disabled(boosted):
            pass
        assert torch.equal(boosted(x), expected)
    assert torch.equal(boosted(x), y)
    with pytest.raises(KeyError), ab.disabled(boosted):
        raise KeyError
    assert torch.equal(boosted(x), y)


def test_disabled_reaches_a_compiled_network():
    torch._dynamo.reset()
    model, x = gated(), images()
    y = model(x)
    fast = torch.compile(model, backend="aot_eager")
    torch.testing.assert_close(fast(x), y)
    with ab.disabled(model):
        expected = model(x)
        torch.testing.assert_close(fast(x), expected)
    assert not torch.allclose(expected, y, rtol=1e-2)
    torch.testing.assert_close(fast(x), y)
    with ab.disabled(fast):
        torch.testing.assert_close(fast(x), expected)
    torch.testing.assert_close(fast(x), y)


@without_warnings
@pytest.mark.parametrize("recipe", ["ab", "cbam", "design_g"])
def test_base_names_stay_and_a_base_checkpoint_loads(network, recipe):
    model, names, size = network
    base = model.state_dict()
    attach(model, recipe, measure(model, names, size))
    keys = list(model.state_dict())
    added = [key for key in keys if key not in base]
    assert [key for key in keys if key in base] == list(base)
    assert added
    for key in added:
        assert key.split(".").count(ATTRIBUTE) == 1
        assert key.split(f".{ATTRIBUTE}.")[0] in names
    assert list(attached(model)) == names
    assert ATTRIBUTE == "recalibrate"
    build = next(row[0] for row in NETWORKS.values() if row[1] == names)
    checkpoint = build().state_dict()
    result = model.load_state_dict(checkpoint, strict=False)
    assert set(result.missing_keys) <= set(added)
    # PyTorch fills in a norm's count by itself, as old checkpoints lack it
    silent = set(added) - set(result.missing_keys)
    assert {key.rpartition(".")[2] for key in silent} <= {"num_batches_tracked"}
    assert result.unexpected_keys == []
    assert all(torch.equal(model.state_dict()[key], checkpoint[key]) for key in checkpoint)


@without_warnings
@pytest.mark.parametrize("name", TABLE)
def test_every_recipe_attaches_and_trains(name):
    model = Tiny(32)
    attach(model, name, measure(model, ["bn"], (3, 5, 7)))
    y = model.train()(torch.randn(2, 3, 5, 7))
    y.square().sum().backward()
    assert y.isfinite().all()
    detach(model)
    assert list(model.state_dict()) == list(Tiny().state_dict())


@without_warnings
def test_attach_returns_the_model_and_follows_its_training_flag():
    for training in (True, False):
        model = Tiny().train(training)
        assert attach(model, "ab", [Site("bn", 8, (6, 6))]) is model
        assert all(m.training == training for m in model.modules())
        assert all(m.training for m in model.train().modules())
        assert not any(m.training for m in model.eval().modules())


@without_warnings
def test_gates_follow_dtype_and_device():
    model = Tiny().double()
    attach(model, "ab", measure(model, ["bn", "act"], (3, 6, 6)))  # act: without parameters
    gates = attached(model)
    assert {v.dtype for g in gates.values() for v in g.parameters()} == {torch.float64}
    assert model(torch.randn(2, 3, 6, 6, dtype=torch.float64)).dtype == torch.float64
    model = attach(Tiny().to("meta"), "ab", [Site("bn", 8, (6, 6)), Site("act", 8, (6, 6))])
    assert {v.device.type for v in model.parameters()} == {"meta"}
    model = attach(Tiny(), "ab", [Site("bn", 8, (6, 6))]).double()
    assert model(torch.randn(2, 3, 6, 6, dtype=torch.float64)).dtype == torch.float64


@without_warnings
def test_double_attach_is_refused():
    model = Tiny()
    sites = measure(model, ["conv", "bn"], (3, 6, 6))
    attach(model, "ab", sites[1:])
    before, y = copy.deepcopy(model.state_dict()), model.eval()(torch.ones(2, 3, 6, 6))
    for again in (sites, sites[1:]):
        with pytest.raises(ValueError, match=r"'bn'.*detach"):
            attach(model, "ab", again)
    assert list(model.state_dict()) == list(before)
    assert len(traces(model)) == 2
    assert torch.equal(model(torch.ones(2, 3, 6, 6)), y)
    attach(model, "ab", sites[:1])  # another site of the same model
    assert list(attached(model)) == ["conv", "bn"]


@without_warnings
def test_a_site_named_twice_has_one_gate():
    model = Tiny()
    site = Site("bn", 8, (6, 6))
    try:
        attach(model, "ab", [site, site])
    except ValueError:
        assert traces(model) == []
    else:
        assert len(traces(model)) == 2


@without_warnings
def test_a_taken_attribute_is_refused():
    model = Tiny()
    model.bn.recalibrate = nn.Identity()
    with pytest.raises(ValueError, match="'bn'"):
        attach(model, "ab", [Site("bn", 8, (6, 6))])
    assert isinstance(model.bn.recalibrate, nn.Identity)
    assert attached(model) == {}


@without_warnings
@pytest.mark.parametrize(
    ("name", "nearest"), [("layer1.0.bn22", "layer1.0.bn2"), ("layer9.0.bn2", "layer1.0.bn2")]
)
def test_an_unknown_site_lists_the_nearest(name, nearest):
    model = ab.create_model("resnet8")
    for refuse in (
        lambda: measure(model, [name], (3, 16, 16)),
        lambda: attach(model, "ab", [Site("layer1.0.bn2", 16, (16, 16)), Site(name, 16, (16, 16))]),
    ):
        with pytest.raises(ValueError, match=re.escape(repr(name))) as caught:
            refuse()
        assert re.search(rf"{re.escape(nearest)}(\W|$)", str(caught.value).replace(name, ""))
        assert traces(model) == []
        assert attached(model) == {}


@without_warnings
def test_groups_that_do_not_divide_leave_the_model_as_it_was():
    model = ab.create_model("resnet20").eval()
    names = model.recalibration_sites[::-1]  # 64 channels first: only a later site is refused
    sites = measure(model, names, (3, 16, 16))
    x = torch.randn(2, 3, 16, 16)
    keys, y = list(model.state_dict()), model(x)
    with pytest.raises(ValueError, match=r"groups=64 must divide channels=32; try 32") as caught:
        attach(model, "ab_g64", sites)
    assert "layer2.2.bn2" in str(caught.value)
    assert list(model.state_dict()) == keys
    assert traces(model) == []
    assert not any(hasattr(m, ATTRIBUTE) for m in model.modules())
    assert torch.equal(model(x), y)


@without_warnings
@pytest.mark.parametrize("recipe", ["abb", "gap | dense", "", None])
def test_a_bad_recipe_leaves_the_model_as_it_was(recipe):
    model = Tiny()
    with pytest.raises(ValueError):
        attach(model, recipe, [Site("bn", 8, (6, 6))])
    assert traces(model) == []
    assert list(model.state_dict()) == list(Tiny().state_dict())


@without_warnings
def test_a_batch_of_one_in_training_names_the_site(network):
    model, names, size = network
    model = boosted_copy(model, names, size).train()
    with pytest.raises(ValueError, match="batch of 1") as caught:
        model(torch.randn(1, *size))
    assert f" {names[0]}.recalibrate.0.bn " in str(caught.value)
    assert "Expected more than 1 value" not in str(caught.value)
    model.eval()(torch.randn(1, *size))


@without_warnings
def test_a_batch_of_one_names_the_site_in_a_copy():
    model = attach(ab.create_model("resnet8"), "ab", [Site("layer1.0.bn2", 16, (16, 16))])
    for other in (copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
        with pytest.raises(ValueError, match=r"layer1\.0\.bn2\.recalibrate\.0\.bn"):
            other.train()(torch.randn(1, 3, 16, 16))


@without_warnings
def test_a_root_site_is_named_without_a_stray_dot():
    model = attach(nn.Conv2d(3, 8, 1), "ab", [Site("", 8, (6, 6))])
    assert list(attached(model)) == [""]
    with pytest.raises(ValueError, match=r" recalibrate\.0\.bn "):
        model.train()(torch.randn(1, 3, 6, 6))


@without_warnings
def test_detach_gives_back_the_network(network):
    model, names, size = network
    x = torch.randn(2, *size)
    keys, y, modules = list(model.state_dict()), model(x), [n for n, _ in model.named_modules()]
    attach(model, "ab", measure(model, names, size))
    assert not torch.equal(model(x), y)
    assert detach(model) is model
    assert torch.equal(model(x), y)
    assert list(model.state_dict()) == keys
    assert [name for name, _ in model.named_modules()] == modules
    assert traces(model) == []
    assert attached(model) == {}
    detach(model)  # nothing to take off
    assert torch.equal(model(x), y)
    attach(model, "ab_plus", measure(model, names, size))  # and on again
    assert list(attached(model)) == names


@without_warnings
def test_detach_leaves_the_users_hooks():
    model, seen = Tiny(), []
    before = model.bn.register_forward_hook(lambda *_: seen.append("before"))
    attach(model, "ab", [Site("bn", 8, (6, 6))])
    after = model.bn.register_forward_hook(lambda *_: seen.append("after"))
    detach(model)
    model(torch.randn(2, 3, 6, 6))
    assert seen == ["before", "after"]
    before.remove()
    after.remove()
    assert traces(model) == []


@without_warnings
def test_detach_a_copy_leaves_the_original(network):
    model, names, size = network
    model = boosted_copy(model, names, size).eval()
    x = torch.randn(2, *size)
    y = model(x)
    detach(copy.deepcopy(model))
    assert torch.equal(model(x), y)


@without_warnings
def test_copies_share_nothing_with_the_original(network):
    model, names, size = network
    gated = boosted_copy(model, names, size).eval()
    x = torch.randn(2, *size)
    y = gated(x)
    file = io.BytesIO()
    torch.save(gated, file)
    file.seek(0)
    whole = torch.load(file, weights_only=False)
    for other in (copy.deepcopy(gated), pickle.loads(pickle.dumps(gated)), whole):
        assert torch.equal(other(x), y)
        with torch.no_grad():
            for value in other.parameters():
                value.zero_()
        assert torch.equal(detach(other)(x), torch.zeros_like(y))
        assert attached(other) == {}
    assert torch.equal(gated(x), y)
    fresh = boosted_copy(model, names, size).eval()
    fresh.load_state_dict(gated.state_dict())
    assert torch.equal(fresh(x), y)
    assert not torch.allclose(detach(fresh)(x), y, rtol=1e-2)


@without_warnings
def test_create_model_attaches_and_keeps_the_weights():
    torch.manual_seed(3)
    plain = ab.create_model("resnet20", num_classes=7)
    torch.manual_seed(3)
    gated = ab.create_model("resnet20", num_classes=7, block="ab")
    assert list(attached(gated)) == plain.recalibration_sites
    for key, value in plain.state_dict().items():
        assert torch.equal(gated.state_dict()[key], value)
    x = torch.randn(2, 3, 32, 32)
    assert not torch.equal(gated.eval()(x), plain.eval()(x))
    assert torch.equal(detach(gated)(x), plain(x))


def test_asking_for_the_gates_changes_nothing_also_where_one_was_dropped():
    """A gate whose module was rebuilt behind torch's back is listed; only `repair` puts it back."""
    model = gated()
    norm = model.layers[0].bn2
    rebuilt = torch.nn.BatchNorm2d(norm.num_features)
    model.layers[0]._modules["bn2"] = rebuilt
    before = [(name, type(m), dict(m.__dict__)) for name, m in model.named_modules()]
    keys = list(model.state_dict())
    gates = attached(model)
    assert list(gates) == ["layers.0.bn2", "layers.1.bn2"]
    assert [(name, type(m), dict(m.__dict__)) for name, m in model.named_modules()] == before
    assert list(model.state_dict()) == keys
    assert type(rebuilt) is torch.nn.BatchNorm2d
    ab.repair(model)
    assert attached(model) == gates
    assert type(rebuilt) is not torch.nn.BatchNorm2d

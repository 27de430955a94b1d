"""One way to attach: names, checkpoints and outputs of the network under the gates stay."""

# N batch, C channels, H W space

from __future__ import annotations

import copy
import io
import pickle
import re

import pytest
import timm
import torch
import torchvision
from torch import nn

import accuracy_booster as ab
from accuracy_booster.blocks import TABLE
from accuracy_booster.surgery import ATTRIBUTE, Site, attach, attached, detach

pytestmark = [
    pytest.mark.filterwarnings("error"),
    pytest.mark.filterwarnings("ignore:the batch norm of the gate"),  # once, by whichever is first
]

STAGES = [f"layer{stage}.{i}.bn2" for stage in (1, 2, 3, 4) for i in (0, 1)]
NETWORKS = {  # how to build it, where its residual branches end, its input
    "torchvision resnet18": (
        lambda: torchvision.models.resnet18(weights=None, num_classes=5),
        STAGES,
        (3, 64, 64),
    ),
    "timm resnet10t": (
        lambda: timm.create_model("resnet10t", num_classes=5, zero_init_last=False),
        [f"layer{stage}.0.bn2" for stage in (1, 2, 3, 4)],
        (3, 64, 64),
    ),
    "our resnet20": (
        lambda: ab.create_model("resnet20"),
        [f"layer{stage}.{i}.bn2" for stage in (1, 2, 3) for i in (0, 1, 2)],
        (3, 16, 16),
    ),
}


@pytest.fixture(autouse=True)
def _seed():
    torch.manual_seed(0)


@pytest.fixture(params=NETWORKS)
def network(request):
    """(a network with running statistics of its own, the names of its sites, its input's size)."""
    build, names, size = NETWORKS[request.param]
    model = build()
    with torch.no_grad():
        model.train()(torch.randn(4, *size))
    return model.eval(), names, size


def measure(model, names, size):
    """The sites at modules named by the user."""
    planned = ab.plan(model, "ab", where=names, example=torch.zeros(1, *size))
    return [gate.site for gate in planned.gates]


class Tiny(nn.Module):
    """conv, norm, ReLU; a second branch; a head."""

    def __init__(self, channels=8):
        super().__init__()
        self.conv = nn.Conv2d(3, channels, 3, padding=1)
        self.bn = nn.BatchNorm2d(channels)
        self.act = nn.ReLU()
        self.unused = nn.Conv2d(3, channels, 1)
        self.drop = nn.Dropout(0.5)
        self.head = nn.Linear(channels, 4)

    def forward(self, x):
        x = self.drop(self.act(self.bn(self.conv(x))))
        return self.head(x.mean((2, 3)))


def boosted(model, names, size, recipe="ab"):
    """A boosted copy whose gates are far from all alike."""
    model = copy.deepcopy(model)
    attach(model, recipe, measure(model, names, size))
    with torch.no_grad():
        for gate in attached(model).values():
            for value in gate.parameters():
                value.normal_()
    return model


def traces(model):
    """What attaching leaves on a network beside the gates: changed classes and hooks."""
    gated = [m for m in model.modules() if type(m).__name__.startswith("Gated")]
    hooks = [h for m in model.modules() for h in m._forward_pre_hooks.values()]
    return [*gated, *hooks]


# --- attach ---------------------------------------------------------------------------------------


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


def test_the_gate_scales_the_output_of_its_site(network):
    """Against the same network with the gates written into it by hand."""
    model, names, size = network
    gated = boosted(model, names, size)
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


@pytest.mark.parametrize("name", TABLE)
def test_every_recipe_attaches_and_trains(name):
    model = Tiny(32)
    attach(model, name, measure(model, ["bn"], (3, 5, 7)))
    y = model.train()(torch.randn(2, 3, 5, 7))
    y.square().sum().backward()
    assert y.isfinite().all()
    detach(model)
    assert list(model.state_dict()) == list(Tiny().state_dict())


def test_attach_returns_the_model_and_follows_its_training_flag():
    for training in (True, False):
        model = Tiny().train(training)
        assert attach(model, "ab", [Site("bn", 8, (6, 6))]) is model
        assert all(m.training == training for m in model.modules())
        assert all(m.training for m in model.train().modules())
        assert not any(m.training for m in model.eval().modules())


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


def test_a_site_named_twice_has_one_gate():
    model = Tiny()
    site = Site("bn", 8, (6, 6))
    try:
        attach(model, "ab", [site, site])
    except ValueError:
        assert traces(model) == []
    else:
        assert len(traces(model)) == 2


def test_a_taken_attribute_is_refused():
    model = Tiny()
    model.bn.recalibrate = nn.Identity()
    with pytest.raises(ValueError, match="'bn'"):
        attach(model, "ab", [Site("bn", 8, (6, 6))])
    assert isinstance(model.bn.recalibrate, nn.Identity)
    assert attached(model) == {}


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


@pytest.mark.parametrize("recipe", ["abb", "gap | dense", "", None])
def test_a_bad_recipe_leaves_the_model_as_it_was(recipe):
    model = Tiny()
    with pytest.raises(ValueError):
        attach(model, recipe, [Site("bn", 8, (6, 6))])
    assert traces(model) == []
    assert list(model.state_dict()) == list(Tiny().state_dict())


def test_a_batch_of_one_in_training_names_the_site(network):
    model, names, size = network
    model = boosted(model, names, size).train()
    with pytest.raises(ValueError, match="batch of 1") as caught:
        model(torch.randn(1, *size))
    assert f" {names[0]}.recalibrate.0.bn " in str(caught.value)
    assert "Expected more than 1 value" not in str(caught.value)
    model.eval()(torch.randn(1, *size))


def test_a_batch_of_one_names_the_site_in_a_copy():
    model = attach(ab.create_model("resnet8"), "ab", [Site("layer1.0.bn2", 16, (16, 16))])
    for other in (copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
        with pytest.raises(ValueError, match=r"layer1\.0\.bn2\.recalibrate\.0\.bn"):
            other.train()(torch.randn(1, 3, 16, 16))


def test_a_root_site_is_named_without_a_stray_dot():
    model = attach(nn.Conv2d(3, 8, 1), "ab", [Site("", 8, (6, 6))])
    assert list(attached(model)) == [""]
    with pytest.raises(ValueError, match=r" recalibrate\.0\.bn "):
        model.train()(torch.randn(1, 3, 6, 6))


# --- detach ---------------------------------------------------------------------------------------


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


def test_detach_a_copy_leaves_the_original(network):
    model, names, size = network
    model = boosted(model, names, size).eval()
    x = torch.randn(2, *size)
    y = model(x)
    detach(copy.deepcopy(model))
    assert torch.equal(model(x), y)


# --- copies, saving, compilers --------------------------------------------------------------------


def test_copies_keep_the_gates(network):
    model, names, size = network
    gated = boosted(model, names, size).eval()
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
    fresh = boosted(model, names, size).eval()
    fresh.load_state_dict(gated.state_dict())
    assert torch.equal(fresh(x), y)
    assert not torch.allclose(detach(fresh)(x), y, rtol=1e-2)


@pytest.mark.parametrize("boosted_first", [False, True])
def test_compiling_one_of_two_networks_of_a_class_leaves_the_other_alone(boosted_first):
    """The rule: modules of one class are told apart by their hooks, whichever compiles first."""
    torch._dynamo.reset()
    x = torch.randn(4, 3, 16, 16)
    build, *_ = NETWORKS["our resnet20"]
    plain, boosted = build().eval(), ab.boost(build(), "ab", where="residual").eval()
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


@pytest.mark.parametrize("boosted_first", [False, True])
def test_a_network_that_is_boosted_after_compiling_or_detached(boosted_first):
    """The same object: the compiled call follows its gates on and off."""
    torch._dynamo.reset()
    x = torch.randn(4, 3, 16, 16)
    build, names, _ = NETWORKS["our resnet20"]
    model = build().eval()
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


def test_compile_and_export_keep_the_gates():
    torch._dynamo.reset()
    model = ab.create_model("resnet8")
    names = model.recalibration_sites
    model = boosted(model, names, (3, 16, 16))
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


# --- measure --------------------------------------------------------------------------------------


def test_measure_gives_the_shapes_of_the_outputs(network):
    model, names, size = network
    shapes = {}
    for name in names:
        model.get_submodule(name).register_forward_hook(
            lambda m, args, y, name=name: shapes.__setitem__(name, y.shape)
        )
    model(torch.randn(2, *size))
    sites = measure(model, names, size)
    assert [s.name for s in sites] == names
    for site in sites:
        assert (site.channels, *site.spatial_size) == tuple(shapes[site.name][1:])


def test_measure_of_a_map_that_is_not_square():
    model = Tiny()
    assert measure(model, ["bn", "conv"], (3, 5, 7)) == [
        Site("bn", 8, (5, 7)),
        Site("conv", 8, (5, 7)),
    ]


def state_of(model):
    return (
        {name: m.training for name, m in model.named_modules()},
        {name: value.clone() for name, value in model.state_dict().items()},
        {n: None if p.grad is None else p.grad.clone() for n, p in model.named_parameters()},
        {n: p.requires_grad for n, p in model.named_parameters()},
        torch.get_rng_state(),
        torch.is_grad_enabled(),
        len(traces(model)),
    )


def assert_same(one, other):
    torch.testing.assert_close(one[1], other[1], rtol=0, atol=0)
    torch.testing.assert_close(one[4], other[4], rtol=0, atol=0)
    for grad, again in zip(one[2].values(), other[2].values(), strict=True):
        assert (grad is None and again is None) or torch.equal(grad, again)
    for i in (0, 3, 5, 6):
        assert one[i] == other[i]


def test_measure_changes_nothing(network):
    model, names, size = network
    model.train()
    model(torch.randn(2, *size)).sum().backward()
    model.get_submodule(names[0]).eval()  # a frozen norm stays frozen
    next(model.parameters()).requires_grad_(False)
    before = state_of(model)
    measure(model, names, size)
    assert_same(state_of(model), before)


@pytest.mark.parametrize(
    ("names", "size", "words"),
    [
        (["bn", "bnn"], (3, 6, 6), "unknown module 'bnn'.*bn"),
        (["bn", "unused"], (3, 6, 6), "'unused'.*not run"),
        (["bn"], (4, 6, 6), r"image \[1, 4, 6, 6\]"),
        (["bn"], (3, 6), r"example \[1, 3, 6\]"),
    ],
)
def test_measure_refuses_and_changes_nothing(names, size, words):
    model = Tiny().train()
    model.drop.eval()
    before = state_of(model)
    with pytest.raises(ValueError, match=words):
        measure(model, names, size)
    assert_same(state_of(model), before)


class Noisy(Tiny):
    """Draws a random number in every mode, as Monte Carlo dropout and stochastic pooling do."""

    def forward(self, x):
        return super().forward(x + torch.rand_like(x))


def test_measure_keeps_the_random_state_of_a_random_network():
    model = Noisy()
    before = torch.get_rng_state()
    measure(model, ["bn"], (3, 6, 6))
    assert torch.equal(torch.get_rng_state(), before)


def test_measure_sees_the_dtype_of_the_network():
    assert measure(Tiny().double(), ["bn"], (3, 6, 6)) == [Site("bn", 8, (6, 6))]


# --- create_model uses the same -------------------------------------------------------------------


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

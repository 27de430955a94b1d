"""What boosting promises: nothing changes but what was asked for, and everything can be undone."""

# N batch, C channels, H W space

from __future__ import annotations

import copy
import json
import pickle
import random
import re
import warnings

import numpy as np
import pytest
import timm
import torch
import torchvision
from torch import nn
from torch.nn.modules import module as module_hooks
from torchvision.ops import StochasticDepth

import accuracy_booster as ab
from accuracy_booster.blocks.recalibrate import Gate
from accuracy_booster.surgery import ATTRIBUTE, attached

SIDE = 16
MARK = f".{ATTRIBUTE}."


@pytest.fixture(autouse=True)
def _seed():
    torch.manual_seed(0)


class Block(nn.Module):
    """A pre-norm-free residual block with a layer scale and stochastic depth."""

    def __init__(self, inputs, outputs, stride=1):
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(outputs)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(outputs)
        self.gamma = nn.Parameter(torch.ones(outputs, 1, 1))
        self.drop = StochasticDepth(0.2, "row")
        same = inputs == outputs and stride == 1
        self.down = nn.Identity() if same else nn.Conv2d(inputs, outputs, 1, stride)

    def forward(self, x):
        y = self.bn2(self.conv2(torch.relu(self.bn1(self.conv1(x)))))
        return torch.relu(self.down(x) + self.drop(self.gamma * y))


class Net(nn.Module):
    def __init__(self, width=16, classes=5):
        super().__init__()
        self.stem = nn.Conv2d(3, width, 3, 1, 1)
        self.norm = nn.BatchNorm2d(width)
        self.layers = nn.Sequential(Block(width, width), Block(width, 2 * width, 2))
        self.dropout = nn.Dropout(0.1)
        self.head = nn.Linear(2 * width, classes)

    def forward(self, x):
        x = self.layers(torch.relu(self.norm(self.stem(x))))
        return self.head(self.dropout(x.mean((2, 3))))


SITES = ["layers.0.bn2", "layers.1.bn2"]
EXAMPLE = torch.zeros(1, 3, SIDE, SIDE)


def randomise(model, spread=0.3):
    """Norms, running statistics and layer scales as in a trained network."""
    with torch.no_grad():
        for name, value in model.named_parameters():
            if name.endswith("bias"):
                value.normal_(0, 0.1)
            elif value.ndim <= 1 or (value == value.flatten()[0]).all():
                value.uniform_(1 - spread, 1 + spread)
        for name, value in model.named_buffers():
            if name.endswith("running_mean"):
                value.normal_(0, 0.1)
            elif name.endswith("running_var"):
                value.uniform_(0.5, 1.5)
    return model


def net(width=16, **options):
    return randomise(Net(width, **options))


def images(count=4, side=SIDE):
    return torch.randn(count, 3, side, side)


def stir(model):
    """Gates far from all alike, with running statistics of their own."""
    with torch.no_grad():
        for gate in attached(model).values():
            for name, value in gate.state_dict().items():
                if name.endswith("running_var"):
                    value.uniform_(0.5, 1.5)
                elif value.is_floating_point():
                    value.normal_()
    return model


def gated(recipe="ab", **options):
    return stir(ab.boost(net(), recipe, example=EXAMPLE, **options)).eval()


def hook_count(model):
    kinds = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")
    return sum(len(getattr(m, kind)) for m in model.modules() for kind in kinds)


def state_of(model):
    return {
        "training": {name: m.training for name, m in model.named_modules()},
        "tensors": {name: value.clone() for name, value in model.state_dict().items()},
        "grads": {n: None if p.grad is None else p.grad.clone() for n, p in named(model)},
        "versions": [t._version for t in model.state_dict().values()],
        "requires": {n: p.requires_grad for n, p in named(model)},
        "attributes": {n: sorted(vars(m)) for n, m in model.named_modules()},
        "rng": torch.get_rng_state(),
        "python": random.getstate(),
        "numpy": [str(part) for part in np.random.get_state()],
        "hooks": hook_count(model),
        "global": len(module_hooks._global_forward_hooks),
        "grad": torch.is_grad_enabled(),
    }


def named(model):
    return list(model.named_parameters())


def assert_same_state(one, other):
    assert one.keys() == other.keys()
    for key in ("training", "versions", "requires", "attributes", "python", "hooks", "global"):
        assert one[key] == other[key], key
    assert one["numpy"] == other["numpy"]
    assert one["grad"] == other["grad"]
    assert torch.equal(one["rng"], other["rng"])
    for key in ("tensors", "grads"):
        assert list(one[key]) == list(other[key])
        for name, value in one[key].items():
            again = other[key][name]
            assert (value is None and again is None) or torch.equal(value, again), name


# --- plan -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("where", ["residual", "conv", ["norm"], re.compile("bn1$")])
def test_plan_changes_nothing(where):
    model = net().train()
    model(images()).sum().backward()
    model.layers[0].bn2.eval()
    model.stem.weight.requires_grad_(False)
    before = state_of(model)
    ab.plan(model, "ab", example=EXAMPLE, where=where)
    assert_same_state(state_of(model), before)
    with pytest.raises(ValueError):
        ab.plan(model, "ab", example=torch.zeros(1, 4, SIDE, SIDE), where=where)
    assert_same_state(state_of(model), before)


@pytest.mark.parametrize("recipe", ["ab", "ab_plus", "se", "cbam", "ge_theta_plus"])
@pytest.mark.parametrize("init", ["paper", "identity"])
def test_the_plan_is_what_boost_adds(recipe, init):
    model = net()
    planned = ab.plan(model, recipe, example=EXAMPLE, init=init)
    assert [g.site.name for g in planned.gates] == SITES
    assert [(g.site.channels, g.site.spatial_size) for g in planned.gates] == [
        (16, (16, 16)),
        (32, (8, 8)),
    ]
    before = sum(p.numel() for p in model.parameters())
    assert ab.boost(model, recipe, example=EXAMPLE, init=init) is model
    assert type(model) is Net
    assert sum(p.numel() for p in model.parameters()) - before == planned.parameters > 0
    for row in planned.gates:
        gate = attached(model)[row.site.name]
        assert sum(p.numel() for p in gate.parameters()) == row.parameters
    assert sum(p.numel() for p in ab.added_parameters(model)) == planned.parameters
    text = str(planned)
    for row in planned.gates:
        line = next(line for line in text.splitlines() if line.startswith(row.site.name))
        height, width = row.site.spatial_size
        cells = [str(row.site.channels), f"{height}x{width}", f"{row.parameters:,}", row.reason]
        assert all(cell in line for cell in cells)
    assert f"{planned.parameters:,}" in text.splitlines()[-1]
    data = json.loads(json.dumps(planned.to_dict()))
    assert data["parameters"] == planned.parameters


def test_the_example_comes_from_the_models_configuration():
    model = timm.create_model("test_resnet", num_classes=3)  # 160 x 160
    size = model.default_cfg["input_size"]
    assert ab.plan(model, "ab").gates[0].site.spatial_size == (size[1] // 4, size[2] // 4)
    grey = timm.create_model("test_resnet", num_classes=3, in_chans=1)
    assert ab.plan(grey, "ab").gates


# --- identity -------------------------------------------------------------------------------------

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
    for (name, value), (_, again) in zip(plain.named_buffers(), base_of(boosted), strict=True):
        assert torch.equal(value, again), name  # running statistics as well


def base_of(model):
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


@pytest.mark.parametrize("recipe", ["design_e", "ge_theta_minus", "gather(2) | sigmoid"])
def test_identity_is_refused_without_parameters(recipe):
    model = net()
    before = state_of(model)
    with pytest.raises(ValueError, match=r"no parameters.*paper"):
        ab.boost(model, recipe, example=EXAMPLE, init="identity")
    assert_same_state(state_of(model), before)


def test_identity_is_refused_in_place_of_attention():
    model = with_attention("se")
    before = state_of(model)
    with pytest.raises(ValueError, match=r"identity.*attention.*paper"):
        ab.boost(model, "ab", example=EXAMPLE, where="attention", init="identity")
    with pytest.raises(ValueError, match=r"init='identiti'"):
        ab.boost(model, "ab", example=EXAMPLE, init="identiti")
    assert_same_state(state_of(model), before)


# --- undo, disable --------------------------------------------------------------------------------


@pytest.mark.parametrize("recipe", ["ab", "cbam", "ge_theta_plus"])
def test_unboost_gives_back_the_network(recipe):
    model = net().train()
    model.layers[1].eval()
    x = images()
    before, expected = state_of(model), copy.deepcopy(model).eval()(x)
    ab.boost(model, recipe, example=EXAMPLE)
    stir(model)
    assert not torch.allclose(copy.deepcopy(model).eval()(x), expected, rtol=1e-2)
    random_state = before["rng"]
    assert ab.unboost(model) is model
    torch.set_rng_state(random_state)  # gates draw their weights
    assert_same_state(state_of(model), before)
    assert torch.equal(model.eval()(x), expected)
    with pytest.raises(ValueError, match="no gates"):
        ab.unboost(model)


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


# --- where ----------------------------------------------------------------------------------------


def test_where_takes_names_a_pattern_or_a_predicate():
    for where in (
        ["norm", "layers.1.bn1"],
        ("norm", "layers.1.bn1"),
        re.compile(r"^norm$|layers\.1\.bn1"),
        lambda name, module: (
            isinstance(module, nn.BatchNorm2d) and name in ("norm", "layers.1.bn1")
        ),
    ):
        model = ab.boost(net(), "ab", example=EXAMPLE, where=where)
        assert list(attached(model)) == ["norm", "layers.1.bn1"]
    assert list(attached(ab.boost(net(), "ab", example=EXAMPLE, where="norm"))) == ["norm"]
    assert list(attached(ab.boost(net(), "ab", example=EXAMPLE, where=iter(["norm"])))) == ["norm"]


@pytest.mark.parametrize(
    ("where", "words"),
    [
        (["layers.0.bn22"], r"'layers\.0\.bn22'.*nearest.*layers\.0\.bn2"),
        ("layers.0.bn22", r"'layers\.0\.bn22'.*nearest.*layers\.0\.bn2"),
        ("residuals", r"'residuals'.*nearest.*residual"),
        (["norm", "layer.0.bn2"], r"'layer\.0\.bn2'.*layers\.0\.bn2"),
        (re.compile("nothing"), "nothing"),
        (lambda name, module: False, "predicate"),
        ([], "names"),
        ("attention", "no attention"),
    ],
)
def test_what_matches_nothing_is_an_error(where, words):
    model = net()
    before = state_of(model)
    with pytest.raises(ValueError, match=words):
        ab.boost(model, "ab", example=EXAMPLE, where=where)
    assert_same_state(state_of(model), before)


def test_conv_finds_the_eight_convolutions_of_vgg11():
    for build, last in (("vgg11", nn.Conv2d), ("vgg11_bn", nn.BatchNorm2d)):
        with torch.device("meta"):
            model = torchvision.models.get_model(build, weights=None, init_weights=False)
        convs = [n for n, m in model.named_modules() if isinstance(m, last)]
        ab.boost(model, "ab", where="conv")
        assert list(attached(model)) == convs
        assert len(convs) == 8
        assert {p.device.type for p in ab.added_parameters(model)} == {"meta"}


def with_attention(kind):
    model = timm.create_model(
        "resnet10t", num_classes=4, block_args={"attn_layer": kind}, zero_init_last=False
    )
    return randomise(model)


@pytest.mark.parametrize("kind", ["se", "eca", "cbam", "ese", "ecam", "gc"])
def test_attention_is_replaced_and_brought_back(kind):
    model, x = with_attention(kind).eval(), images(2, 64)
    with torch.no_grad():
        for name, value in named(model):
            if ".se." in name:
                value.normal_()  # trained
    modules = {n: m for n, m in model.named_modules() if n.endswith(".se")}
    base, expected = state_of(model), model(x)
    assert len(modules) == 4
    ab.boost(model, "ab", example=x[:1], where="attention")
    assert list(attached(model)) == list(modules)
    kept = [key for key in model.state_dict() if MARK not in key]
    assert kept == [key for key in base["tensors"] if ".se." not in key]
    assert not torch.allclose(stir(model)(x), expected, rtol=1e-3)
    with ab.disabled(model):  # no attention at all
        plain = copy.deepcopy(model)
        torch.testing.assert_close(model(x), plain(x))
    again = copy.deepcopy(model)
    ab.unboost(model)
    assert {n: m for n, m in model.named_modules() if n.endswith(".se")} == modules
    assert torch.equal(model(x), expected)
    assert list(model.state_dict()) == list(base["tensors"])
    assert torch.equal(ab.unboost(again)(x), expected)


def test_replaced_attention_follows_dtype_and_training():
    model, x = with_attention("se").eval(), images(2, 32)
    expected = model(x)
    ab.boost(model, "ab", example=x[:1], where="attention")
    model.double().train()
    ab.unboost(model)
    assert {p.dtype for p in model.parameters()} == {torch.float64}
    assert all(m.training for m in model.modules())
    torch.testing.assert_close(model.eval()(x.double()).float(), expected, rtol=1e-3, atol=1e-4)


def test_present_attention_is_a_warning():
    model = with_attention("se")
    with pytest.warns(UserWarning, match=r"4 attention modules.*where='attention'") as caught:
        ab.boost(model, "ab", example=images(1, 32))
    assert len(caught) == 1
    assert caught[0].filename == __file__
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        ab.boost(net(), "ab", example=EXAMPLE)
        ab.boost(with_attention("se"), "ab", example=images(1, 32), where="attention")


# --- save and load --------------------------------------------------------------------------------


def trained(base, recipe="ab", **options):
    """A boosted copy whose gates and running statistics have changed."""
    model = ab.boost(copy.deepcopy(base), recipe, example=EXAMPLE, **options)
    optimizer = torch.optim.SGD(ab.added_parameters(model), lr=1.0)
    for _ in range(2):
        model.train()(images(16)).square().sum().backward()
        optimizer.step()
    return model.eval()


@pytest.mark.parametrize("recipe", ["ab", "cbam", "ge_theta_plus", "gap | dense | sigmoid"])
@pytest.mark.parametrize("init", ["paper", "identity"])
@pytest.mark.filterwarnings("error")
def test_what_is_saved_is_loaded(tmp_path, recipe, init):
    base, x = net(), images()
    model = trained(base, recipe, init=init)
    ab.save(model, tmp_path / "gates")
    fresh = ab.load(copy.deepcopy(base), tmp_path / "gates").eval()
    assert torch.equal(fresh(x), model(x))
    assert list(attached(fresh)) == SITES
    for key, value in model.state_dict().items():
        if "num_batches" not in key:
            assert torch.equal(fresh.state_dict()[key], value), key
    size = sum(p.stat().st_size for p in (tmp_path / "gates").iterdir())
    whole = sum(t.nbytes for t in model.state_dict().values())
    assert size < whole
    info = json.loads((tmp_path / "gates" / "booster.json").read_text())
    assert info["base"]["class"] == "Net"
    ab.save(fresh, tmp_path / "again")  # and once more from what was loaded
    twice = ab.load(copy.deepcopy(base), tmp_path / "again").eval()
    assert torch.equal(twice(x), model(x))
    assert torch.equal(ab.unboost(fresh).layers[0].conv1.weight, base.layers[0].conv1.weight)


def test_other_base_weights_are_a_warning(tmp_path):
    ab.save(trained(net()), tmp_path)
    with pytest.warns(UserWarning, match="other weights"):
        ab.load(net(), tmp_path)


@pytest.mark.parametrize(
    "other", [lambda: net(32), lambda: net(classes=6), lambda: nn.Conv2d(3, 4, 3)]
)
def test_another_structure_is_refused(tmp_path, other):
    ab.save(trained(net()), tmp_path)
    model = other()
    before = state_of(model)
    with pytest.raises(ValueError, match=r"Net of another structure"):
        ab.load(model, tmp_path)
    assert_same_state(state_of(model), before)


def truncate(folder):
    file = folder / "booster.safetensors"
    file.write_bytes(file.read_bytes()[:-20])


def break_json(folder):
    (folder / "booster.json").write_text("{")


def empty_json(folder):
    (folder / "booster.json").write_text("{}")


def json_list(folder):
    (folder / "booster.json").write_text("[1]")


def binary_json(folder):
    (folder / "booster.json").write_bytes(b"\xff\xfe\x00")


def lose_tensors(folder):
    (folder / "booster.safetensors").unlink()


def edit(change):
    def damage(folder):
        from safetensors.torch import load_file, save_file

        tensors = load_file(folder / "booster.safetensors")
        change(tensors)
        save_file(tensors, folder / "booster.safetensors")

    damage.__name__ = change.__name__
    return damage


def drop_one(tensors):
    tensors.pop(next(key for key in tensors if key.endswith("dense.weight")))


def add_one(tensors):
    tensors["stranger"] = torch.zeros(1)


def reshape_one(tensors):
    tensors[next(key for key in tensors if key.endswith("dense.weight"))] = torch.zeros(3, 3)


def unknown_site(folder):
    info = json.loads((folder / "booster.json").read_text())
    info["sites"][0]["name"] = "layers.9.bn2"
    (folder / "booster.json").write_text(json.dumps(info))


def unknown_part(folder):
    text = (folder / "booster.json").read_text()
    (folder / "booster.json").write_text(text.replace('"part": "dense"', '"part": "dance"'))


@pytest.mark.parametrize(
    "damage",
    [
        *[truncate, break_json, empty_json, json_list, binary_json, lose_tensors],
        *[edit(drop_one), edit(add_one), edit(reshape_one), unknown_site, unknown_part],
    ],
    ids=lambda damage: damage.__name__,
)
def test_damaged_files_are_refused_and_change_nothing(tmp_path, damage):
    base = net()
    ab.save(trained(base), tmp_path)
    damage(tmp_path)
    before = state_of(base)
    with pytest.raises(ValueError) as caught, torch.random.fork_rng():
        ab.load(base, tmp_path)
    assert str(tmp_path) in str(caught.value) or "layers.9.bn2" in str(caught.value)
    assert_same_state(state_of(base), before)


def test_a_missing_folder_is_refused(tmp_path):
    with pytest.raises(ValueError, match="no saved gates"):
        ab.load(net(), tmp_path / "nowhere")
    with pytest.raises(ValueError, match="no gates to save"):
        ab.save(net(), tmp_path)
    (tmp_path / "file").write_text("")
    with pytest.raises(ValueError, match="cannot write"):
        ab.save(gated(), tmp_path / "file" / "below")
    model = gated()
    ab.save(model, tmp_path)
    with pytest.raises(ValueError, match=r"gates already.*unboost"):
        ab.load(model, tmp_path)


def test_a_trained_base_is_told_and_stored_in_full(tmp_path):
    base, x = net(), images()
    model = trained(base)
    with torch.no_grad():
        model.head.weight.add_(1)
    with pytest.warns(UserWarning, match=r"'head.weight'.*full=True"):
        ab.save(model, tmp_path / "part")
    with pytest.warns(UserWarning, match=r"base network was trained.*full=True"):
        ab.load(copy.deepcopy(base), tmp_path / "part")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        ab.save(model, tmp_path / "full", full=True)
        fresh = ab.load(copy.deepcopy(base), tmp_path / "full").eval()
        other = ab.load(net(), tmp_path / "full").eval()
    assert torch.equal(fresh(x), model(x))
    assert torch.equal(other(x), model(x))


@pytest.mark.filterwarnings("error")
def test_several_boosts_with_different_recipes_are_saved(tmp_path):
    base, x = net(), images()
    model = ab.boost(copy.deepcopy(base), "ab", example=EXAMPLE)
    ab.boost(model, "se", example=EXAMPLE, where=["norm"])
    ab.boost(model, "ge_theta_plus", example=EXAMPLE, where=["layers.0.bn1"])
    stir(model).eval()
    ab.save(model, tmp_path)
    fresh = ab.load(copy.deepcopy(base), tmp_path).eval()
    assert torch.equal(fresh(x), model(x))
    assert {n: str(g.recipe) for n, g in attached(fresh).items()} == {
        n: str(g.recipe) for n, g in attached(model).items()
    }
    assert ab.unboost(fresh) is fresh
    assert hook_count(fresh) == 0


@pytest.mark.filterwarnings("error")
def test_replaced_attention_is_saved_and_loaded(tmp_path):
    base, x = with_attention("se").eval(), images(2, 32)
    expected = base(x)
    model = stir(ab.boost(copy.deepcopy(base), "ab", example=x[:1], where="attention")).eval()
    ab.save(model, tmp_path)
    fresh = ab.load(copy.deepcopy(base), tmp_path).eval()
    assert torch.equal(fresh(x), model(x))
    assert list(fresh.state_dict()) == list(model.state_dict())
    assert torch.equal(ab.unboost(fresh)(x), expected)


@pytest.mark.filterwarnings("error")
def test_gates_in_nhwc_and_16_bits_are_saved_and_loaded(tmp_path):
    base = timm.create_model("convnext_tiny", depths=(1, 1, 1, 1), dims=(8, 8, 16, 16))
    base, x = randomise(base).bfloat16().eval(), images(2, 32).bfloat16()
    model = stir(ab.boost(copy.deepcopy(base), "ab", example=x[:1])).eval()
    assert {gate.layout for gate in attached(model).values()} == {"NHWC"}
    ab.save(model, tmp_path)
    assert torch.equal(ab.load(copy.deepcopy(base), tmp_path).eval()(x), model(x))


# --- optimizer ------------------------------------------------------------------------------------


def by_group(optimizer, model):
    names = {id(p): n for n, p in named(model)}
    return [{names[id(p)] for p in group["params"]} for group in optimizer.param_groups]


@pytest.mark.parametrize("recipe", ["ab", "se"])
@pytest.mark.parametrize("reverse", [False, True])
def test_new_parameters_join_the_group_of_their_kind(recipe, reverse):
    model = net()
    groups = [
        {"params": [p for p in model.parameters() if p.ndim > 1], "weight_decay": 0.1},
        {"params": [p for p in model.parameters() if p.ndim <= 1], "weight_decay": 0.0},
    ]
    optimizer = torch.optim.SGD(groups[::-1] if reverse else groups, lr=0.1, momentum=0.9)
    model(images()).sum().backward()
    optimizer.step()
    ab.boost(model, recipe, example=EXAMPLE, optimizer=optimizer)
    decay, plain = by_group(optimizer, model)[:: -1 if reverse else 1]
    assert {n for n in decay if MARK in n} == {
        n for n, p in named(model) if MARK in n and p.ndim > 1
    }
    assert {n for n in plain if MARK in n} == {
        n for n, p in named(model) if MARK in n and p.ndim <= 1
    }
    members = [id(p) for group in optimizer.param_groups for p in group["params"]]
    assert len(set(members)) == len(members) == len(named(model))
    before = [p.detach().clone() for p in ab.added_parameters(model)]
    model(images()).square().sum().backward()
    optimizer.step()
    assert any(
        not torch.equal(p, q) for p, q in zip(ab.added_parameters(model), before, strict=True)
    )


def test_new_parameters_join_the_group_of_their_layer():
    """Layer-wise learning rates: each gate goes with its own block."""
    model = net()
    parts = [model.stem, model.layers[0], model.layers[1], model.head, model.norm]
    groups = []
    for part in parts:
        groups.append({"params": [p for p in part.parameters() if p.ndim > 1]})
        groups.append({"params": [p for p in part.parameters() if p.ndim <= 1]})
    optimizer = torch.optim.AdamW([g for g in groups if g["params"]], lr=0.1)
    places = {n: i for i, names in enumerate(by_group(optimizer, model)) for n in names}
    ab.boost(model, "ab", example=EXAMPLE, optimizer=optimizer)
    for i, names in enumerate(by_group(optimizer, model)):
        for name in names:
            if MARK in name:
                block = name.split(".bn2.")[0]
                like = "conv2.weight" if name.endswith("dense.weight") else "bn2.weight"
                assert places[f"{block}.{like}"] == i, name


# --- refusals -------------------------------------------------------------------------------------


def data_parallel():
    return nn.DataParallel(net())


def compiled():
    return torch.compile(net(), backend="aot_eager")


def scripted():
    return torch.jit.trace(net().eval(), EXAMPLE)


def quantised():
    quantization = pytest.importorskip("torch.ao.quantization")
    if not torch.backends.quantized.supported_engines:
        pytest.skip("no engine for quantised networks")
    return quantization.quantize_dynamic(net(), {nn.Linear}, dtype=torch.qint8)


def boosted_before():
    return gated()


def without_sites():
    return nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Conv2d(4, 4, 3))


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")
@pytest.mark.parametrize(
    ("make", "words"),
    [
        (data_parallel, r"DataParallel.*model\.module"),
        (compiled, "compiled.*do this first"),
        (scripted, "TorchScript.*instead"),
        (quantised, "quantised.*before"),
        (boosted_before, "has a gate already.*unboost"),
        (without_sites, "no residual branch.*where="),
        (lambda: "resnet50", "nn.Module, got str"),
    ],
)
def test_what_cannot_be_boosted_is_refused(make, words):
    model = make()
    keys = list(model.state_dict()) if isinstance(model, nn.Module) else []
    count = hook_count(model) if isinstance(model, nn.Module) else 0
    for refuse in (ab.plan, ab.boost):
        with pytest.raises(ValueError, match=words):
            refuse(model, "ab", example=EXAMPLE)
    if isinstance(model, nn.Module):
        assert list(model.state_dict()) == keys
        assert hook_count(model) == count


@pytest.mark.parametrize("where", ["residual", "conv", "attention", ["layers.0.bn2"]])
@pytest.mark.filterwarnings("ignore:.*attention:UserWarning")
def test_a_gate_is_not_gated_again(where):
    model = gated()
    before = state_of(model)
    with pytest.raises(ValueError):
        ab.boost(model, "ab", example=EXAMPLE, where=where)
    assert_same_state(state_of(model), before)


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


def test_a_compiled_part_is_refused():
    model = net()
    model.layers[0] = torch.compile(model.layers[0], backend="eager")
    with pytest.raises(ValueError, match=r"compiled.*boost"):
        ab.boost(model, "ab", example=EXAMPLE)


@pytest.mark.parametrize("recipe", ["ab_g3", "abb", "gap | dense", "ab_g32"])
def test_a_recipe_that_does_not_fit_leaves_the_network_alone(recipe):
    model = net()
    before = state_of(model)
    with pytest.raises(ValueError):
        ab.boost(model, recipe, example=EXAMPLE)
    assert_same_state(state_of(model), before)


def test_a_network_compiled_in_place_is_refused_or_gated():
    torch._dynamo.reset()
    model, x = net().eval(), images()
    expected = model(x)
    model.compile(backend="aot_eager")
    model(x)
    try:
        stir(ab.boost(model, "ab", example=EXAMPLE))
    except ValueError:
        return
    got = model.eval()(x)
    assert not torch.allclose(got, expected, rtol=1e-2)
    torch._dynamo.reset()
    torch.testing.assert_close(got, model(x))


# --- it survives ----------------------------------------------------------------------------------


@pytest.mark.parametrize("recipe", ["ab", "cbam"])
def test_copies_are_gated_and_can_be_unboosted(recipe):
    model, x = gated(recipe), images()
    y = model(x)
    for other in (copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
        assert torch.equal(other(x), y)
        with ab.disabled(other):
            assert not torch.equal(other(x), y)
        ab.unboost(other)
        assert hook_count(other) == 0
        assert not torch.equal(other(x), y)
    assert torch.equal(model(x), y)


def test_compile_and_export():
    torch._dynamo.reset()
    model, x = gated(), images()
    expected = model(x)
    fast = torch.compile(copy.deepcopy(model), backend="aot_eager", fullgraph=True)
    torch.testing.assert_close(fast(x), expected)
    program = torch.export.export(model, (x,))
    torch.testing.assert_close(program.module()(x), expected)
    trained_model = torch.compile(copy.deepcopy(model), backend="aot_eager").train()
    trained_model(x).sum().backward()
    assert all(p.grad is not None for p in ab.added_parameters(trained_model))


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


def test_moving_averages():
    model, x = gated(), images()
    ema = timm.utils.ModelEmaV3(model, decay=0.5)
    assert torch.equal(ema.module(x), model(x))
    start = [p.detach().clone() for p in ab.added_parameters(model)]
    with torch.no_grad():
        for p in ab.added_parameters(model):
            p.add_(1)
    ema.update(model)
    ema.update(model)
    for p, old in zip(ab.added_parameters(ema.module), start, strict=True):
        assert (p > old).all()
    average = torch.optim.swa_utils.AveragedModel(model)
    assert torch.equal(average(x), model(x))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_dtypes_before_and_after(dtype):
    base, x = net().eval(), images()
    model = stir(ab.boost(copy.deepcopy(base), "ab", example=EXAMPLE)).eval()
    expected = model(x)
    after = copy.deepcopy(model).to(dtype)
    before = ab.boost(copy.deepcopy(base).to(dtype), "ab", example=EXAMPLE).eval()
    before.load_state_dict(model.state_dict())
    for other in (after, before):
        assert {p.dtype for p in ab.added_parameters(other)} == {dtype}
        y = other(x.to(dtype))
        assert y.dtype == dtype
        torch.testing.assert_close(y.float(), expected, rtol=0.1, atol=0.1)
        other.train()(x.to(dtype)).float().sum().backward()


def test_memory_format():
    model, x = gated(), images()
    expected = model(x)
    model.to(memory_format=torch.channels_last)
    torch.testing.assert_close(model(x.to(memory_format=torch.channels_last)), expected)


def test_meta_then_real():
    source, x = gated(), images()
    with torch.device("meta"):
        model = Net()
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


def test_timms_freeze_keeps_the_gates():
    model = stir(ab.boost(timm.create_model("test_resnet"), "ab", example=images(1, 32))).eval()
    x = images(2, 32)
    expected, names = model(x), list(attached(model))
    timm.utils.freeze(model, ["layer1", "layer2"])
    torch.testing.assert_close(model(x), expected)
    assert list(attached(model)) == names


class Listed(nn.Module):
    """Its norms are in a list, which is never called."""

    def __init__(self):
        super().__init__()
        self.convs = nn.ModuleList([nn.Conv2d(8, 8, 3, padding=1) for _ in range(2)])
        self.norms = nn.ModuleList([nn.BatchNorm2d(8) for _ in range(2)])
        self.stem = nn.Conv2d(3, 8, 1)

    def forward(self, x):
        x = self.stem(x)
        return x + self.norms[1](self.convs[1](torch.relu(self.norms[0](self.convs[0](x)))))


CONVERTERS = {
    "torch": nn.SyncBatchNorm.convert_sync_batchnorm,
    "timm": timm.layers.convert_sync_batchnorm,
}


@pytest.mark.filterwarnings("ignore:.*attention:UserWarning")
@pytest.mark.parametrize("converter", CONVERTERS)
@pytest.mark.parametrize("name", ["ours", "listed", "test_resnet", "mobilenetv2", "darknet"])
def test_synchronised_norms_keep_the_gates(name, converter):
    if converter == "torch" and name in ("mobilenetv2", "darknet"):
        pytest.skip("timm's norms with activations need timm's converter")
    builds = {
        "ours": net,
        "listed": lambda: randomise(Listed()),
        "test_resnet": lambda: randomise(timm.create_model("test_resnet")),
        "mobilenetv2": lambda: randomise(timm.create_model("mobilenetv2_035")),
        "darknet": lambda: randomise(timm.create_model("darknet17")),
    }
    model, x = builds[name](), images(2, 64)
    plain = CONVERTERS[converter](copy.deepcopy(model)).eval()(x)
    stir(ab.boost(model, "ab", example=x[:1])).eval()
    expected = model(x)
    converted = CONVERTERS[converter](copy.deepcopy(model)).eval()
    torch.testing.assert_close(converted(x), expected, rtol=1e-4, atol=1e-4)
    assert not torch.allclose(expected, plain, rtol=1e-3)
    torch.testing.assert_close(copy.deepcopy(converted)(x), expected, rtol=1e-4, atol=1e-4)
    with ab.disabled(converted):
        torch.testing.assert_close(converted(x), plain, rtol=1e-4, atol=1e-4)
    assert list(converted.state_dict()) == list(model.state_dict())
    ab.unboost(converted)
    torch.testing.assert_close(converted(x), plain, rtol=1e-4, atol=1e-4)
    assert hook_count(converted) == 0


def run_ddp(rank, store, folder):
    torch.set_num_threads(1)
    torch.distributed.init_process_group(
        "gloo", init_method=f"file://{store}", rank=rank, world_size=2
    )
    try:
        torch.manual_seed(0)
        model = stir(ab.boost(net(), "ab", example=EXAMPLE, init="identity"))
        wrapped = nn.parallel.DistributedDataParallel(model)
        try:
            ab.boost(wrapped, "ab", example=EXAMPLE)
            refused = ""
        except ValueError as e:
            refused = str(e)
        optimizer = torch.optim.SGD(wrapped.parameters(), lr=0.1)
        torch.manual_seed(rank)
        for _ in range(2):
            optimizer.zero_grad()
            wrapped(images()).square().sum().backward()
            optimizer.step()
        torch.manual_seed(7)
        state = {"parameters": dict(wrapped.module.named_parameters()), "refused": refused}
        state["output"] = wrapped.module.eval()(images())
        torch.save(state, f"{folder}/{rank}.pt")
    finally:
        torch.distributed.destroy_process_group()


@pytest.mark.skipif(not torch.distributed.is_gloo_available(), reason="needs gloo")
def test_two_processes(tmp_path):
    torch.multiprocessing.spawn(run_ddp, (str(tmp_path / "store"), str(tmp_path)), nprocs=2)
    one, other = (torch.load(tmp_path / f"{rank}.pt", weights_only=False) for rank in (0, 1))
    assert any(MARK in name for name in one["parameters"])
    for name, value in one["parameters"].items():
        assert torch.equal(value, other["parameters"][name]), name
    assert re.search(r"DistributedDataParallel.*model\.module", one["refused"])


# --- the network's other methods ------------------------------------------------------------------


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


def test_boosting_a_checkpointed_network_finds_the_same_sites():
    model = timm.create_model("test_resnet")
    expected = [g.site for g in ab.plan(model, "ab", example=images(1, 64)).gates]
    model.set_grad_checkpointing(True)
    assert [g.site for g in ab.plan(model, "ab", example=images(1, 64)).gates] == expected


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


# --- create_model ---------------------------------------------------------------------------------


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


# --- public weights -------------------------------------------------------------------------------


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


def test_disabled_brings_replaced_attention_back_for_a_while():
    model = timm.create_model("seresnet18", num_classes=3, zero_init_last=False).double().eval()
    x = torch.randn(2, 3, 64, 64, dtype=torch.float64)
    y = model(x)
    ab.boost(model, "ab", example=x[:1], where="attention")
    assert not torch.equal(model(x), y)
    with ab.disabled(model):
        assert torch.equal(model(x), y)


@pytest.mark.parametrize("optimizer", [3, "sgd", torch.optim.SGD([torch.zeros(2)], lr=0.1)])
def test_an_optimizer_of_something_else_is_refused_and_changes_nothing(optimizer):
    model = timm.create_model("resnet10t", num_classes=3)
    keys = list(model.state_dict())
    with pytest.raises(ValueError, match="optimizer"):
        ab.boost(model, "ab", example=torch.zeros(1, 3, 64, 64), optimizer=optimizer)
    assert list(model.state_dict()) == keys


def test_a_branch_that_starts_at_zero_is_a_warning_with_identity():
    model = timm.create_model("resnet10t", num_classes=3)  # zero_init_last
    with pytest.warns(UserWarning, match="4 of 4 branches end in a norm whose weight is zero"):
        ab.plan(model, "ab", example=torch.zeros(1, 3, 64, 64), init="identity")


@pytest.mark.parametrize(
    "call",
    [
        lambda m: ab.plan(m, where=3),
        lambda m: ab.plan(m, where=None),
        lambda m: ab.plan(m, where=[3]),
        lambda m: ab.plan(m, where=""),
        lambda m: ab.plan(m, example=(1, 3, 64, 64)),
        lambda m: ab.boost(m, example={"pixel_values": torch.zeros(1, 3, 64, 64)}),
        lambda m: ab.unboost(3),
        lambda m: ab.added_parameters(None),
        lambda m: ab.save(m, "nowhere"),
        lambda m: ab.load(m, None),
    ],
)
def test_wrong_types_are_value_errors(call):
    with pytest.raises(ValueError):
        call(timm.create_model("resnet10t", num_classes=3))

"""`ab.merge`: gates frozen at constants and gates merged compute the same, in float64."""

# N batch, C channels, H W space

from __future__ import annotations

import copy
import pickle
import re
import types
import warnings

import pytest
import timm
import torch
import torchvision
from torch import nn
from torch.nn.utils import prune, weight_norm
from torch.nn.utils.parametrizations import spectral_norm

import accuracy_booster as ab
from accuracy_booster.fastpath import merging
from accuracy_booster.fastpath import scalable_layers as layers
from accuracy_booster.surgery import attached

pytestmark = [
    pytest.mark.filterwarnings("error"),
    pytest.mark.filterwarnings("ignore:the batch norm of the gate"),
    pytest.mark.filterwarnings("ignore:.*:DeprecationWarning"),
    pytest.mark.filterwarnings("ignore:.*:FutureWarning"),
    pytest.mark.filterwarnings("ignore:the network has .* attention modules already"),
]

NETWORKS = {  # the side of its images, the places of its gates
    "resnet8": (12, 3),
    "wrn10_1": (12, 3),
    "shufflenet_g3": (32, 16),
    "torchvision/resnet18": (32, 8),
    "torchvision/mobilenet_v2": (32, 10),
    "timm/resnet26": (32, 8),
    "timm/regnetx_002": (32, 13),
    "timm/efficientnet_lite0": (32, 9),
    "timm/convnext_atto": (32, 12),
    "timm/edgenext_xx_small": (64, 12),  # channels last
    "timm/nf_regnet_b0": (32, 16),  # convolutions with standardised weights and a gain
}
IN_FLOAT64 = 1e-12


@pytest.fixture(autouse=True)
def _seed():
    torch.manual_seed(0)


def randomise(model):
    """Weights and statistics far from where they start, so that no mistake hides."""
    with torch.no_grad():
        for name, value in model.named_parameters():
            if name.endswith(("gamma", "layer_scale", "gain")):
                value.uniform_(0.5, 1.5)  # they start near 0, where a branch gives nothing
        for module in model.modules():
            if isinstance(module, nn.modules.batchnorm._BatchNorm):
                if module.weight is not None:
                    module.weight.uniform_(0.5, 1.5).mul_(torch.randn_like(module.weight).sign())
                    module.bias.normal_(std=0.5)
                if module.running_mean is not None:
                    module.running_mean.normal_(std=0.5)
                    module.running_var.uniform_(0.3, 3)
        for gate in attached(model).values():
            for value in gate.parameters():
                value.normal_()
    return model.eval()


def network(name="resnet8", recipe="ab", **options):
    side = NETWORKS.get(name, (32,))[0]
    model = ab.create_model(
        name, block=recipe, num_classes=5, input_size=(3, side, side), **options
    )
    return randomise(model).double()


def images(name="resnet8", n=2):
    side = NETWORKS.get(name, (32,))[0]
    return torch.randn(n, 3, side, side, dtype=torch.float64)


def constants(model):
    """{site: weights in (0, 1)}, in float64."""
    return {
        name: torch.rand(gate.channels, dtype=torch.float64)
        for name, gate in attached(model).items()
    }


def frozen(model, given):
    """A copy whose gates at the given sites multiply by constants: what merging has to equal."""
    new = copy.deepcopy(model)
    for name, gate in attached(new).items():
        if name in given:

            def times(gate, inputs, output, p=given[name]):
                (x,) = inputs
                if gate.layout == "NHWC":
                    return x * p
                return torch.einsum("nc...,c->nc...", x, p.to(x))

            gate.register_forward_hook(times)
    return new


def difference(model, other, x):
    """max |difference| over max |output|."""
    with torch.no_grad():
        y, again = model(x), other(x)
    assert again.dtype == y.dtype
    assert again.shape == y.shape
    assert y.isfinite().all()
    return float((again - y).abs().max() / y.abs().max())


def traces(model):
    """What surgery would leave on a network's modules."""
    return [
        (name, type(m), sorted(m.__dict__), len(m._forward_hooks), len(m._forward_pre_hooks))
        for name, m in model.named_modules()
    ]


class Net(nn.Module):
    """One layer, and a head that tells the channels apart."""

    def __init__(self, *layers, channels=6):
        super().__init__()
        self.layers = nn.ModuleList(layers)
        self.head = nn.Linear(channels, 4)

    def forward(self, x):
        for layer in self.layers:
            x = layer(x)
        return self.head(x.flatten(2).mean(2) if x.ndim > 2 else x)


class Last(Net):
    """The same for maps whose channels come last."""

    def forward(self, x):
        for layer in self.layers:
            x = layer(x)
        return self.head(x.flatten(1, -2).mean(1))


def boosted(model, x, where=("layers.0",)):
    """A network with a gate, in float64, and its random constants."""
    with torch.no_grad():
        for value in model.parameters():
            value.normal_()
    ab.boost(model, "ab", example=x.float(), where=list(where))
    model.double().eval()
    return model, constants(model)


# --- the same numbers -----------------------------------------------------------------------------


@pytest.mark.parametrize("recipe", ["ab", "se"])
@pytest.mark.parametrize("name", NETWORKS)
def test_a_merged_network_is_the_one_with_constant_gates(name, recipe):
    model, x = network(name, recipe), images(name)
    given = constants(model)
    assert len(given) == NETWORKS[name][1]
    merged = ab.merge(model, given)
    assert difference(frozen(model, given), merged, x) < IN_FLOAT64
    assert difference(model, merged, x) > 1e-6  # the constants are others than the gates gave
    base = network(name, None)
    assert {k: v.shape for k, v in merged.state_dict().items()} == {
        k: v.shape for k, v in base.state_dict().items()
    }
    assert list(merged.state_dict()) == list(base.state_dict())
    assert traces(merged) == traces(base)
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
    assert difference(frozen(model, kept), some, x) < IN_FLOAT64
    # and from a mapping of one site alone
    part = ab.merge(some, {two: given[two]})
    assert attached(part) == {}
    assert difference(frozen(model, given), part, x) < IN_FLOAT64
    assert difference(model, ab.merge(model, given, at=[]), x) == 0
    assert list(attached(ab.merge(model, given, at=two))) == [one, three]


def test_whatever_has_means():
    model, x = network(), images()
    given = constants(model)
    merged = ab.merge(model, types.SimpleNamespace(means=lambda: given))
    assert difference(frozen(model, given), merged, x) < IN_FLOAT64


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
    model, given = boosted(Net(nn.BatchNorm2d(6), own), x)
    found = ab.gates(model, [x])
    assert set(found) == {"layers.0", "layers.1"}
    with pytest.warns(
        UserWarning, match=r"'layers\.1' \(the gate is a module of the network's own"
    ):
        merged = ab.merge(model, found)
    given = {"layers.0": found["layers.0"].mean}
    assert difference(frozen(model, given), merged, x) < IN_FLOAT64
    with pytest.raises(ValueError, match="the network's own"):
        ab.merge(model, found, at=found)


def test_a_gate_that_is_constant_merges_exactly():
    """The weight of its last norm is 0, so each weight is sigmoid(beta), whatever the image."""
    model, x = network(), images()
    given = {}
    with torch.no_grad():
        for name, gate in attached(model).items():
            gate[0].bn.weight.zero_()
            given[name] = torch.sigmoid(gate[0].bn.bias)
    assert difference(model, ab.merge(model, given), x) < IN_FLOAT64


LAYERS = {  # the layer, what goes in; its output has 6 channels
    "bn1d": (lambda: nn.BatchNorm1d(6), (3, 6, 5)),
    "bn1d of vectors": (lambda: nn.BatchNorm1d(6), (3, 6)),
    "bn2d": (lambda: nn.BatchNorm2d(6), (3, 6, 5, 4)),
    "bn3d": (lambda: nn.BatchNorm3d(6), (3, 6, 2, 3, 4)),
    "sync": (lambda: nn.SyncBatchNorm(6), (3, 6, 5, 4)),
    "instance": (lambda: nn.InstanceNorm2d(6, affine=True), (3, 6, 5, 4)),
    "group": (lambda: nn.GroupNorm(3, 6), (3, 6, 5, 4)),
    "conv1d": (lambda: nn.Conv1d(4, 6, 3), (3, 4, 8)),
    "conv2d": (lambda: nn.Conv2d(4, 6, 3, groups=2, bias=False), (3, 4, 8, 7)),
    "conv3d": (lambda: nn.Conv3d(4, 6, 3), (3, 4, 5, 6, 7)),
    "transposed 1d": (lambda: nn.ConvTranspose1d(4, 6, 3), (3, 4, 8)),
    "transposed 2d": (lambda: nn.ConvTranspose2d(4, 6, 3, groups=2), (3, 4, 8, 7)),
    "transposed 3d": (lambda: nn.ConvTranspose3d(4, 6, 2, bias=False), (3, 4, 3, 4, 5)),
    "linear": (lambda: nn.Linear(4, 6), (3, 4)),
    "frozen": (lambda: torchvision.ops.misc.FrozenBatchNorm2d(6), (3, 6, 5, 4)),
    "torchvision norm": (lambda: torchvision.models.convnext.LayerNorm2d(6), (3, 6, 5, 4)),
    "timm relu": (lambda: timm.layers.BatchNormAct2d(6), (3, 6, 5, 4)),
    "timm leaky": (
        lambda: timm.layers.BatchNormAct2d(6, act_layer=nn.LeakyReLU),
        (3, 6, 5, 4),
    ),
    "timm frozen": (lambda: timm.layers.FrozenBatchNormAct2d(6), (3, 6, 5, 4)),
    "timm group": (lambda: timm.layers.GroupNormAct(6, 3), (3, 6, 5, 4)),
    "timm norm": (lambda: timm.layers.LayerNorm2d(6), (3, 6, 5, 4)),
    "timm rms": (lambda: timm.layers.RmsNorm2d(6), (3, 6, 5, 4)),
    "timm same": (lambda: timm.layers.Conv2dSame(4, 6, 3, stride=2), (3, 4, 8, 7)),
    "timm scale": (lambda: timm.layers.LayerScale2d(6), (3, 6, 5, 4)),
    "last: linear": (lambda: nn.Linear(4, 6), (3, 5, 7, 4)),
    "last: norm": (lambda: nn.LayerNorm(6), (3, 5, 7, 6)),
    "last: no bias": (lambda: nn.LayerNorm(6, bias=False), (3, 5, 7, 6)),
    "last: rms": (lambda: nn.RMSNorm(6), (3, 5, 7, 6)),
    "last: timm norm": (lambda: timm.layers.LayerNorm(6), (3, 5, 7, 6)),
    "last: timm scale": (lambda: timm.layers.LayerScale(6), (3, 5, 7, 6)),
}


@pytest.mark.parametrize("kind", LAYERS)
def test_every_layer(kind):
    build, shape = LAYERS[kind]
    last = kind.startswith("last")
    base = (Last if last else Net)(build())
    x = torch.randn(shape, dtype=torch.float64)
    for buffer in base.buffers():
        if buffer.is_floating_point():
            buffer.uniform_(0.5, 2)
    model, given = with_gate(base, last, len(shape))
    merged = ab.merge(model, given)
    assert difference(frozen(model, given), merged, x) < IN_FLOAT64
    assert traces(merged) == traces(type(base)(build()))
    assert [(n, t.dtype) for n, t in merged.state_dict().items()] == [
        (n, t.dtype) for n, t in model.state_dict().items() if "recalibrate" not in n
    ]


def with_gate(base, last, rank):
    """A gate on the first layer, whatever `ab.boost` would think of the place."""
    with torch.no_grad():
        for value in base.parameters():
            value.normal_()
    size = (4,) * (rank - 2)
    ab.surgery.attach(
        base, "ab", [ab.surgery.Site("layers.0", 6, size, "NHWC" if last else "NCHW")]
    )
    base.double().eval()
    return base, constants(base)


def test_a_subclass_that_computes_the_same():
    class Own(nn.BatchNorm2d):
        pass

    x = torch.randn(3, 6, 5, 4, dtype=torch.float64)
    model, given = boosted(Net(Own(6)), x)
    assert difference(frozen(model, given), ab.merge(model, given), x) < IN_FLOAT64


def test_a_layer_that_runs_twice():
    x = torch.randn(3, 6, 5, 4, dtype=torch.float64)
    conv = nn.Conv2d(6, 6, 3, padding=1)
    model, given = boosted(Net(conv, nn.ReLU(), conv), x)
    assert difference(frozen(model, given), ab.merge(model, given), x) < IN_FLOAT64


# --- the result -----------------------------------------------------------------------------------


def test_the_model_itself_does_not_change():
    model, x = network(), images()
    before, state = traces(model), copy.deepcopy(model.state_dict())
    with torch.no_grad():
        y = model(x)
        merged = ab.merge(model, constants(model))
        for value in merged.parameters():
            value.zero_()
        assert torch.equal(model(x), y)
    assert traces(model) == before
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
    merged, alike = ab.merge(model, given).train(), frozen(model, given).train()
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
    assert traces(merged) == traces(ab.merge(model, given))
    assert difference(frozen(model, given), merged, x) < IN_FLOAT64
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


# --- folding --------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["resnet8", "timm/efficientnet_lite0", "wrn10_1"])
def test_folding_with_constant_gates(name):
    model, x = network(name), images(name)
    given = constants(model)
    wanted = frozen(model, given)
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
    assert difference(frozen(model, given), folded, x) < 1e-10
    places = {p.name: p for p in ab.fast_path(folded).places}
    assert list(places) == [first, *others]
    assert all(p.fast for p in places.values())
    assert all("the gate from the mean" in places[name].how for name in others)


def test_folding_where_a_gate_cannot_be_constant():
    x = torch.randn(3, 6, 5, 4, dtype=torch.float64)
    model, given = boosted(Net(nn.BatchNorm2d(6), nn.ReLU6()), x, ["layers.0", "layers.1"])
    with pytest.warns(UserWarning, match=r"'layers\.1' \(no weight of a ReLU6"):
        folded = ab.fold(model, static=given, example=x[:1], verify=True)
    del given["layers.1"]
    assert difference(frozen(model, given), folded, x) < 1e-10
    assert [p.fast for p in ab.fast_path(folded).places] == [True, False]


def test_verifying_finds_a_wrong_merge(monkeypatch):
    model, x = network(), images()
    real = layers.scale
    monkeypatch.setattr(layers, "scale", lambda module, p: real(module, p + 1e-3))
    with pytest.raises(RuntimeError, match="from the exact output"):
        ab.fold(model, static=constants(model), example=x[:1], verify=True)


# --- what keeps its gate --------------------------------------------------------------------------


class Half(nn.Conv2d):
    def forward(self, x):
        return super().forward(x) + 1


def tied():
    first, second = nn.Conv2d(6, 6, 1), nn.Conv2d(6, 6, 1)
    second.weight = first.weight
    return Net(first, second)


def own_forward():
    net = Net(nn.Conv2d(6, 6, 1))
    net.layers[0].forward = lambda x: x * 2
    return net


def with_act(act):
    return lambda: Net(timm.layers.BatchNormAct2d(6, act_layer=act))


REFUSED = {
    "container": (lambda: Net(nn.Sequential(nn.Conv2d(6, 6, 1))), "no weight of a Sequential"),
    "activation": (lambda: Net(nn.Sigmoid()), "no weight of a Sigmoid"),
    "own class": (lambda: Net(Half(6, 6, 1)), "no weight of a Half"),
    "own forward": (own_forward, "another tool gave this Conv2d a forward"),
    "no weight": (lambda: Net(nn.BatchNorm2d(6, affine=False)), r"no weight \(affine=False\)"),
    "no weight, layer norm": (
        lambda: Net(timm.layers.LayerNorm2d(6, affine=False)),
        r"no weight \(affine=False\)",
    ),
    "tied": (tied, "other modules share the Conv2d's weight"),
    "parametrised": (lambda: Net(spectral_norm(nn.Conv2d(6, 6, 1))), "weight is parametrised"),
    "weight norm of old": (lambda: Net(weight_norm(nn.Conv2d(6, 6, 1))), "weight is parametrised"),
    "pruned": (
        lambda: Net(prune.l1_unstructured(nn.Conv2d(6, 6, 1), "weight", 0.5)),
        "weight is parametrised",
    ),
    "silu": (with_act(nn.SiLU), "goes on with SiLU"),
    "relu6": (with_act(nn.ReLU6), "goes on with ReLU6"),
}


@pytest.mark.parametrize("kind", REFUSED)
def test_gates_that_stay(kind):
    build, why = REFUSED[kind]
    x = torch.randn(3, 6, 5, 4, dtype=torch.float64)
    model, given = boosted(build(), x)
    with pytest.warns(UserWarning, match=rf"not merged: 'layers\.0' \(.*{why}"):
        new = ab.merge(model, given)
    assert len(attached(new)) == 1
    assert difference(model, new, x) == 0
    with pytest.raises(ValueError, match=rf"cannot merge 'layers\.0' \(.*{why}.*leave"):
        ab.merge(model, given, at=["layers.0"])


def test_constants_below_zero():
    x = torch.randn(3, 6, 5, 4, dtype=torch.float64)
    model, given = boosted(Net(timm.layers.BatchNormAct2d(6), nn.Conv2d(6, 6, 1)), x)
    with pytest.warns(UserWarning, match="goes on with ReLU, and some constants are below 0"):
        ab.merge(model, {"layers.0": -given["layers.0"]})
    model, given = boosted(Net(nn.Conv2d(6, 6, 1)), x)
    given = {"layers.0": -given["layers.0"]}
    assert difference(frozen(model, given), ab.merge(model, given), x) < IN_FLOAT64


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


def test_disabled_gates_and_maps_of_another_layout():
    model = network()
    with ab.disabled(model), pytest.warns(UserWarning, match="the gate is disabled"):
        ab.merge(model, constants(model))
    base = Net(nn.Linear(6, 6))
    model, given = with_gate(base, False, 4)
    with pytest.warns(UserWarning, match="the channels of a Linear are not those of the gate"):
        ab.merge(model, given)
    model, given = with_gate(Last(nn.LayerNorm((3, 6))), True, 4)
    with pytest.warns(UserWarning, match="normalises more than the channels"):
        ab.merge(model, given)


def test_an_attention_module_that_was_replaced():
    model = ab.create_model(
        "timm/seresnet18", block="ab", where="attention", num_classes=5, input_size=(3, 32, 32)
    )
    model, x = randomise(model).double(), torch.randn(2, 3, 32, 32, dtype=torch.float64)
    with pytest.warns(UserWarning, match=r"and \d more \(no weight of a Replaced"):
        new = ab.merge(model, constants(model))
    assert difference(model, new, x) == 0
    assert len(attached(new)) == len(attached(model)) == 8


@pytest.mark.parametrize("name", ["timm/ghostnet_050", "torchvision/convnext_tiny"])
def test_networks_where_no_site_can_be_merged(name):
    model, x = network(name), images(name)
    with pytest.warns(UserWarning, match=r"and \d+ more \(no weight of a (GhostModule|Permute)"):
        new = ab.merge(model, constants(model))
    assert difference(model, new, x) == 0


def test_memory_that_buffers_share():
    """Two views of one memory are two buffers; the other one keeps its values."""
    first, second = (torchvision.ops.misc.FrozenBatchNorm2d(6) for _ in range(2))
    x = torch.randn(3, 6, 5, 4, dtype=torch.float64)
    model, given = boosted(Net(first, second), x)
    second.weight = first.weight.view(6)
    assert difference(frozen(model, given), ab.merge(model, given), x) < IN_FLOAT64


# --- errors ---------------------------------------------------------------------------------------


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


def test_one_error_names_all_sites():
    x = torch.randn(3, 6, 5, 4, dtype=torch.float64)
    net = Net(nn.Sigmoid(), nn.BatchNorm2d(6), nn.BatchNorm2d(6, affine=False))
    model, given = boosted(net, x, ["layers.0", "layers.1", "layers.2"])
    with pytest.raises(ValueError) as caught:
        ab.merge(model, given, at=given)
    assert "'layers.0' (no weight of a Sigmoid" in str(caught.value)
    assert "'layers.2' (the BatchNorm2d has no weight" in str(caught.value)
    assert "layers.1" not in str(caught.value)


def test_every_known_class_is_there():
    """Of the libraries that are installed; each computes by the method that is looked at."""
    for name in layers.KNOWN:
        module, _, cls = name.rpartition(".")
        found = getattr(__import__(module, fromlist=[cls]), cls)
        assert issubclass(found, nn.Module)
        assert f"{found.__module__}.{found.__qualname__}" == name
    assert merging.FEW > 1


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

"""`ab.prune`: the smaller network computes what the whole one does with those channels zeroed."""

# N batch, C channels, H W space

from __future__ import annotations

import copy
import itertools
import json
import math
import pickle

import pytest
import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

import accuracy_booster as ab
from accuracy_booster.blocks import TABLE
from accuracy_booster.inspection.opened_networks import inputs_of
from accuracy_booster.models.preact_cifar import PreActResNet
from accuracy_booster.pruning import pruned_channels, pruning_of
from accuracy_booster.pruning.channels import CRITERIA, choose
from accuracy_booster.pruning.pruned_modules import Expand
from accuracy_booster.surgery import Site, attach, attached
from accuracy_booster.training.opening_to_measure import open_measured

pytestmark = [
    pytest.mark.filterwarnings("error"),
    pytest.mark.filterwarnings("ignore:the batch norm of the gate"),
    pytest.mark.filterwarnings("ignore:.*:DeprecationWarning"),
    pytest.mark.filterwarnings("ignore:the network has .* attention modules already"),
]

SIDES = {
    "resnet8": 12,
    "preact11": 12,
    "wrn10_1": 12,
    "shufflenet_g3": 32,
    "torchvision/resnet18": 32,
    "torchvision/mobilenet_v2": 32,
    "timm/resnet26": 32,
    "timm/regnetx_002": 32,
    "timm/convnext_atto": 32,
}
# places inside branches: resnet26 and regnet have two in each, shufflenet shuffles channels there
INNER = {
    "resnet8": 3,
    "preact11": 6,
    "wrn10_1": 3,
    "torchvision/resnet18": 8,
    "torchvision/mobilenet_v2": 10,
    "timm/resnet26": 16,
    "timm/regnetx_002": 26,
    "timm/convnext_atto": 12,
}
MIXING = [
    *("ab_plus", "ab_plus_nobn", "ab_g2", "se", "eca", "cbam", "ge_theta_plus"),
    *("ge_theta_plus_bn", "design_h", "design_h_bn", "design_i", "design_k", "design_o"),
]
OWN = [name for name in TABLE if name not in MIXING]


@pytest.fixture(autouse=True)
def _seed():
    torch.manual_seed(0)


def randomise(model):
    """Norms and gates far from where they start, so that no mistake hides."""
    with torch.no_grad():
        for module in model.modules():
            if isinstance(module, nn.modules.batchnorm._BatchNorm):
                module.weight.uniform_(0.5, 1.5)
                module.bias.normal_(std=0.5)
                module.running_mean.normal_(std=0.5)
                module.running_var.uniform_(0.3, 3)
        for gate in attached(model).values():
            for name, value in gate.named_parameters():
                if ".bn." not in f".{name}":
                    value.normal_()
    return model.eval().double()


def network(name="resnet8", recipe="ab"):
    size = (3, SIDES[name], SIDES[name])
    if name == "preact11":
        model = PreActResNet(11, num_classes=5)
        if recipe != "none":
            ab.boost(model, recipe, example=torch.zeros(1, *size))
    else:
        model = ab.create_model(name, block=recipe, num_classes=5, input_size=size)
    return randomise(model)


def images(name="resnet8", count=3):
    return torch.randn(count, 3, SIDES[name], SIDES[name], dtype=torch.float64)


def means_of(model):
    """Mean weights made up: {site: [C]}, all different."""
    return {site: torch.rand(gate.channels) for site, gate in attached(model).items()}


def check_same(got, wanted):
    got, wanted = got.detach(), wanted.detach()
    assert wanted.std() > 1e-3
    assert (got - wanted).abs().max() <= 1e-12 * max(1, float(wanted.abs().max()))


def macs(model, x):
    """As torch counts them."""
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        model(x)
    return counter.get_total_flops() // 2


def parameters(model):
    return sum(p.numel() for p in model.parameters())


def with_outputs_zeroed(model, kept):
    """The whole network, whose gates' outputs are 0 where channels are removed."""
    model = copy.deepcopy(model)
    for site, places in kept.items():
        gate = attached(model)[site]
        mask = torch.zeros(gate.channels, dtype=torch.float64)
        mask[places] = 1
        dims = gate.spatial_dims if gate.layout == "NCHW" else 0
        shape = (-1, *[1] * dims)
        mask = mask.view(shape)
        gate.register_forward_hook(lambda m, i, y, mask=mask: y * mask)
    return model


def with_inputs_zeroed(model, kept, readers):
    """The whole network, whose layers' weights are 0 where they read removed channels."""
    model = copy.deepcopy(model)
    for producer, places in kept.items():
        layer = model.get_submodule(readers[producer])
        groups = getattr(layer, "groups", 1)
        mask = torch.zeros(layer.weight.shape[1] * groups, dtype=torch.float64)
        mask[places] = 1
        rows = layer.weight.data.unflatten(0, (groups, -1))
        shape = (groups, 1, -1, *[1] * (layer.weight.ndim - 2))
        layer.weight.data = (rows * mask.view(shape)).flatten(0, 1)
    return model


def readers_of(model):
    """{a layer: the next one with weights between channels}, by the order of registration."""
    layers = [
        name
        for name, m in model.named_modules()
        if isinstance(m, (nn.Conv2d, nn.Linear)) and getattr(m, "groups", 0) != m.weight.shape[0]
    ]
    return dict(itertools.pairwise(layers))


@pytest.mark.parametrize("name", SIDES)
def test_outputs_compute_what_the_whole_network_does_without_those_channels(name):
    model, x = network(name), images(name)
    small = ab.prune(model, 0.6, gates=means_of(model), example=x)
    kept = pruned_channels(small)
    assert set(kept) == set(attached(model))
    check_same(small(x), with_outputs_zeroed(model, kept)(x))
    assert parameters(small) < parameters(model)
    assert macs(small, x) < macs(model, x)
    for site, gate in attached(small).items():
        assert gate.channels == len(kept[site.removesuffix(".layer")])
        assert all(p.shape[0] == gate.channels for p in gate.parameters())


@pytest.mark.parametrize("name", INNER)
def test_inner_computes_what_the_whole_network_does_without_those_channels(name):
    model, x = network(name), images(name)
    small = ab.prune(model, 0.6, of="inner", gates=means_of(model), example=x)
    kept = pruned_channels(small)
    assert len(kept) == INNER[name]
    ungated = [p for p in pruning_of(small).places if "what reads it has no gate" in p.how]
    assert len(ungated) == len(kept) - min(len(kept), len(attached(model)))
    check_same(small(x), with_inputs_zeroed(model, kept, readers_of(model))(x))
    assert macs(small, x) < macs(model, x)
    for site, gate in attached(model).items():
        for mine, other in zip(attached(small)[site].parameters(), gate.parameters(), strict=True):
            assert torch.equal(mine, other), "the gates stay as they are"


@pytest.mark.parametrize("recipe", OWN)
def test_gates_that_act_channel_by_channel_are_exact(recipe):
    model, x = network(recipe=recipe), images()
    small = ab.prune(model, 0.5, by="magnitude", example=x)
    check_same(small(x), with_outputs_zeroed(model, pruned_channels(small))(x))


@pytest.mark.parametrize("recipe", MIXING)
def test_gates_that_mix_channels_are_refused_for_outputs_alone(recipe):
    model, x = network(recipe=recipe), images()
    with pytest.raises(ValueError, match=r"weighs a channel by others.*of='inner' takes any"):
        ab.prune(model, 0.5, by="magnitude", example=x)
    small = ab.prune(model, 0.5, by="magnitude", of="inner", example=x)
    readers = readers_of(model)
    check_same(small(x), with_inputs_zeroed(model, pruned_channels(small), readers)(x))


@pytest.mark.parametrize("of", ["outputs", "inner"])
def test_criteria_have_equal_macs_and_parameters(of):
    model, x = network(), images()
    networks = [
        ab.prune(model, 0.7, by=by, of=of, gates=means_of(model), example=x) for by in CRITERIA
    ]
    assert len({macs(small, x) for small in networks}) == 1
    assert len({parameters(small) for small in networks}) == 1
    choices = {str(pruned_channels(small)) for small in networks}
    # inside branches the scores by gates are outgoing weights too, and the product may agree
    assert len(choices) == 4 if of == "outputs" else len(choices) >= 3


def test_macs_and_parameters_by_hand():
    """ResNet-8 on 12x12: the convolutions before, each with half as many outputs or inputs."""
    model, x = network(), images(count=1)
    small = ab.prune(model, 0.5, of="inner", by="random", example=x)
    sides, widths, inputs = (12, 6, 3), (16, 32, 64), (16, 16, 32)
    gone = params = 0
    for side, width, before in zip(sides, widths, inputs, strict=True):
        half = width // 2
        gone += side**2 * 9 * half * (before + width)
        params += 9 * half * (before + width) + 2 * half  # and the norm's gamma and beta
    assert macs(model, x) - macs(small, x) == gone
    assert parameters(model) - parameters(small) == params
    size = (3, 12, 12)
    before, after = (ab.complexity(m, input_size=size).macs for m in (model, small))
    assert before - after == gone
    outputs = ab.prune(model, 0.5, by="random", example=x)
    less = sum(s**2 * 9 * (w // 2) * w for s, w in zip(sides, widths, strict=True))
    assert macs(model, x) - macs(outputs, x) == less
    # a gate of AB without its bias: a weight, gamma and beta
    assert parameters(model) - parameters(outputs) == sum((9 * w + 5) * w // 2 for w in widths)


def test_gates_rank_channels_by_their_mean_weight():
    model, x = network(), images()
    means = {site: torch.ones(gate.channels) for site, gate in attached(model).items()}
    lowest = {site: torch.randperm(len(m))[: len(m) // 4] for site, m in means.items()}
    for site, places in lowest.items():
        means[site][places] = 0.1
    small = ab.prune(model, 0.75, gates=means, example=x)
    for site, kept in pruned_channels(small).items():
        assert sorted({*range(len(means[site]))} - {*kept}) == sorted(lowest[site].tolist())


class Means:
    def __init__(self, means):
        self.given = means

    def means(self):
        return self.given


def test_gates_may_be_anything_with_means():
    model, x = network(), images()
    means = means_of(model)
    one, other = (ab.prune(model, 0.5, gates=g, example=x) for g in (means, Means(means)))
    assert pruned_channels(one) == pruned_channels(other)


def test_magnitude_is_that_of_the_filter_with_its_norm():
    model, x = network(), images()
    small = ab.prune(model, 0.5, by="magnitude", example=x)
    for site, kept in pruned_channels(small).items():
        folded = ab.fold(model, example=x).get_submodule(site.replace("bn2", "conv2")).conv
        norms = folded.weight.flatten(1).norm(dim=1)  # the convolution with its norm inside
        assert sorted(norms.topk(len(kept)).indices.tolist()) == kept


def test_the_product_is_that_of_both():
    model, x = network(), images()
    site = "layer1.0.bn2"
    norm, conv = model.layer1[0].bn2, model.layer1[0].conv2
    magnitude = conv.weight.flatten(1).norm(dim=1)
    magnitude = magnitude * norm.weight / (norm.running_var + norm.eps).sqrt()
    means = means_of(model)
    small = ab.prune(model, 0.5, by="gates*magnitude", gates=means, example=x)
    best = (magnitude * means[site]).topk(8).indices.tolist()
    assert pruned_channels(small)[site] == sorted(best)


def test_inner_scores_are_those_of_outgoing_weights():
    model, x = network(), images()
    block, means = model.layer2[0], means_of(model)
    scale = block.bn2.weight / (block.bn2.running_var + block.bn2.eps).sqrt()
    taken = block.conv2.weight.square().sum((2, 3)).sqrt() * scale[:, None]
    taken = taken * block.bn1.weight
    for by, weights in (("magnitude", torch.ones(32)), ("gates", means["layer2.0.bn2"])):
        small = ab.prune(model, 0.5, by=by, of="inner", gates=means, example=x)
        best = (taken * weights[:, None]).norm(dim=0).topk(16).indices.tolist()
        assert pruned_channels(small)["layer2.0.conv1"] == sorted(best)


def test_a_closed_output_makes_its_inner_channel_worthless():
    """A channel that only closed outputs read goes first by gates, and stays by magnitude."""
    model, x = network(), images()
    block, means = model.layer1[0], means_of(model)
    means["layer1.0.bn2"][:8] = 0
    with torch.no_grad():
        block.conv2.weight[8:, 3] = 0
        block.conv2.weight[:8, 3] = 10
    by = {
        name: ab.prune(model, 0.9, by=name, of="inner", gates=means, example=x)
        for name in ("gates", "magnitude")
    }
    assert 3 not in pruned_channels(by["gates"])["layer1.0.conv1"]
    assert 3 in pruned_channels(by["magnitude"])["layer1.0.conv1"]


def test_seeds_decide_what_chance_keeps():
    model, x = network(), images()
    kept = [
        pruned_channels(ab.prune(model, 0.5, by="random", seed=seed, example=x))
        for seed in (0, 0, 1)
    ]
    assert kept[0] == kept[1] != kept[2]


def test_choose_keeps_whole_channels_and_as_many_in_each_group():
    scores = torch.tensor([0.1, 0.9, 0.8, 0.7, 0.2, 0.3, 0.3, 0.3])
    assert choose(scores, 0.5).tolist() == [1, 2, 3, 5]
    assert choose(scores, 0.5, blocks=2).tolist() == [1, 2, 5, 6]
    assert choose(scores, 0.01).tolist() == [1]
    assert choose(scores, 1).tolist() == [*range(8)]
    assert [len(choose(torch.rand(10), keep)) for keep in (0.24, 0.25, 0.26)] == [2, 3, 3]


def test_groups_keep_the_same_number_of_channels():
    model, x = network("shufflenet_g3"), images("shufflenet_g3")
    small = ab.prune(model, 0.5, by="magnitude", example=x)
    site = "layer2.1.bn3"
    width = attached(model)[site].channels // 3
    groups = [place // width for place in pruned_channels(small)[site]]
    assert [groups.count(g) for g in range(3)] == [width // 2] * 3
    assert small.layer2[1].conv3.groups == 3


def test_the_model_does_not_change():
    model, x = network().train(), images()
    before = {name: t.clone() for name, t in model.state_dict().items()}
    names = [name for name, _ in model.named_modules()]
    for of in ("outputs", "inner"):
        assert ab.prune(model, 0.5, by="magnitude", of=of, example=x).training
    assert model.training
    assert [name for name, _ in model.named_modules()] == names
    assert all(torch.equal(t, before[name]) for name, t in model.state_dict().items())


def test_a_share_of_one_keeps_everything():
    model, x = network(), images()
    small = ab.prune(model, 1, by="magnitude", example=x)
    assert torch.equal(small(x), model(x))
    assert pruned_channels(small) == {}


@pytest.mark.parametrize("of", ["outputs", "inner"])
def test_it_trains(of):
    model, x = network(), images(count=4)
    small = ab.prune(model, 0.5, by="magnitude", of=of, example=x).train()
    before = {name: p.clone() for name, p in small.named_parameters()}
    optimizer = torch.optim.SGD(small.parameters(), lr=0.1)
    small(x).square().sum().backward()
    for name, p in small.named_parameters():
        assert p.grad is not None, name
        assert p.grad.any(), name
    optimizer.step()
    assert all(not torch.equal(p, before[name]) for name, p in small.named_parameters())


@pytest.mark.parametrize("of", ["outputs", "inner"])
def test_copies_pickles_and_moves(of):
    model, x = network(), images()
    small = ab.prune(model, 0.5, by="magnitude", of=of, example=x)
    for twin in (copy.deepcopy(small), pickle.loads(pickle.dumps(small))):
        assert torch.equal(twin(x), small(x))
        assert pruned_channels(twin) == pruned_channels(small)
    assert small.float()(x.float()).dtype == torch.float32
    bare = ab.unboost(copy.deepcopy(small))(x.float())
    assert not torch.equal(small(x.float()), bare)
    with ab.disabled(small):
        assert torch.equal(small(x.float()), bare)


@pytest.mark.parametrize("of", ["outputs", "inner"])
def test_it_folds_and_fuses(of):
    model, x = network(), images()
    small = ab.prune(model, 0.5, by="magnitude", of=of, example=x)
    folded = ab.fold(small, example=x, verify=True)
    assert ab.fast_path(folded).taken == len(attached(model))
    torch.testing.assert_close(folded(x), small(x), rtol=1e-9, atol=1e-9)
    wanted = small(x)
    ab.fuse(small, example=x)
    torch.testing.assert_close(small(x), wanted, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("of", ["outputs", "inner"])
def test_it_exports_with_a_dynamic_batch(of):
    model, x = network().float(), images().float()
    small = ab.prune(model, 0.5, by="magnitude", of=of, example=x)
    batch = torch.export.Dim("batch", min=1, max=64)
    program = torch.export.export(small, (x,), dynamic_shapes=({0: batch},))
    for count in (1, 5):
        y = images(count=count).float()
        torch.testing.assert_close(program.module()(y), small(y), rtol=1e-5, atol=1e-5)


def test_torch_fx_follows_it():
    small = ab.prune(network(), 0.5, by="magnitude", example=images())
    x = images()
    assert torch.equal(torch.fx.symbolic_trace(small)(x), small(x))


def test_it_is_pruned_again():
    model, x = network(), images()
    once = ab.prune(model, 0.5, by="magnitude", example=x)
    inner = ab.prune(once, 0.5, by="magnitude", of="inner", example=x)
    kept = pruned_channels(inner)
    wanted = with_inputs_zeroed(once, kept, readers_of(once))
    assert len(kept) == 3
    check_same(inner(x), wanted(x))
    twice = ab.prune(once, 0.5, by="random", example=x)
    assert [len(k) for k in pruned_channels(twice).values()] == [4, 8, 16]


@pytest.mark.parametrize("of", ["outputs", "inner"])
def test_networks_without_gates_are_pruned_by_magnitude(of):
    model, x = network(recipe="none"), images()
    small = ab.prune(model, 0.5, by="magnitude", of=of, example=x)
    assert len(pruned_channels(small)) == 3
    assert macs(small, x) < macs(model, x)
    with pytest.raises(ValueError, match="the network has none; use by='magnitude'"):
        ab.prune(model, 0.5, gates={}, of=of, example=x)


def test_gates_everywhere_go_along_inside():
    model = ab.create_model("resnet8", num_classes=5)
    model = randomise(ab.boost(model, "ab", where="conv", example=torch.zeros(1, 3, 12, 12)))
    x = images()
    small = ab.prune(model, 0.5, by="magnitude", of="inner", example=x)
    kept = pruned_channels(small)
    assert set(kept) == {f"layer{i}.0.conv1" for i in (1, 2, 3)}
    check_same(small(x), with_inputs_zeroed(model, kept, readers_of(model))(x))
    assert attached(small)["layer1.0.bn1"].channels == 8


def test_vectors_and_their_gates():
    class Mlp(nn.Module):
        def __init__(self):
            super().__init__()
            self.stem = nn.Linear(6, 8)
            self.a, self.n, self.act = nn.Linear(8, 12), nn.BatchNorm1d(12), nn.PReLU(12)
            self.b, self.m = nn.Linear(12, 8), nn.BatchNorm1d(8)

        def forward(self, x):
            x = self.stem(x)
            return x + self.m(self.b(self.act(self.n(self.a(x)))))

    model, x = Mlp(), torch.randn(5, 6, dtype=torch.float64)
    with torch.no_grad():
        model.act.weight.uniform_(0.1, 0.9)
    randomise(attach(model, "ab", [Site("m", 8, ())]))
    small = ab.prune(model, 0.5, by="magnitude", example=x)
    check_same(small(x), with_outputs_zeroed(model, pruned_channels(small))(x))
    inner = ab.prune(model, 0.5, by="magnitude", of="inner", example=x)
    assert inner.act.num_parameters == 6
    check_same(inner(x), with_inputs_zeroed(model, pruned_channels(inner), {"a": "b"})(x))


def test_what_cannot_be_pruned_stays_whole_and_is_told():
    model, x = network(), images()
    nn.utils.parametrizations.weight_norm(model.layer1[0].conv2)
    model.layer2[0].bn2.register_forward_hook(lambda *a: None)
    small = ab.prune(model, 0.5, by="magnitude", example=x)
    assert set(pruned_channels(small)) == {"layer3.0.bn2"}
    text = str(pruning_of(small))
    assert "'layer1.0.conv2' is a ParametrizedConv2d with a forward or weights of its own" in text
    assert "a hook reads 'layer2.0.bn2'" in text
    assert "1 of 3 places are smaller, 32 channels are gone" in text
    check_same(small(x), with_outputs_zeroed(model, pruned_channels(small))(x))


def test_shared_weights_and_second_readers_stay_whole():
    model, x = network(), images()
    first, second = model.layer1[0], model.layer2[0]
    first.conv2.weight = first.conv1.weight  # 16 to 16 channels, both
    second.act1.register_forward_hook(lambda *a: None)
    small = ab.prune(model, 0.5, by="magnitude", of="inner", example=x)
    assert set(pruned_channels(small)) == {"layer3.0.conv1"}
    text = str(pruning_of(small))
    assert "shares its weights" in text
    assert "a hook reads 'layer2.0.act1'" in text


def test_a_map_that_is_read_twice_stays_whole():
    class Attended(nn.Module):
        """x + conv(relu(norm(conv(x))) * its own mean): a gate written by hand."""

        def __init__(self):
            super().__init__()
            self.stem, self.a = nn.Conv2d(3, 8, 3), nn.Conv2d(8, 8, 1)
            self.n, self.b, self.m = nn.BatchNorm2d(8), nn.Conv2d(8, 8, 1), nn.BatchNorm2d(8)

        def forward(self, x):
            x = self.stem(x)
            h = self.n(self.a(x)).relu()
            return x + self.m(self.b(h * h.mean((2, 3), keepdim=True)))

    model, x = randomise(Attended()), images()
    with pytest.raises(ValueError, match=r"nothing of Attended .*b .*mul joins the map with ano"):
        ab.prune(model, 0.5, by="magnitude", of="inner", example=x)
    assert pruned_channels(ab.prune(model, 0.5, by="magnitude", example=x))["m"]


def test_shuffled_channels_inside_are_refused():
    model, x = network("shufflenet_g3"), images("shufflenet_g3")
    with pytest.raises(ValueError, match="nothing of ShuffleNet can be pruned with of='inner'"):
        ab.prune(model, 0.5, by="magnitude", of="inner", example=x)


WRONG = {
    "needs the mean weights of the gates: gates=ab.gates.model, loader.": {"by": "gates"},
    "unknown criterion 'gate'; nearest: gates": {"by": "gate"},
    "keep=0 must be a share of the channels": {"keep": 0},
    "keep=1.5 must be a share": {"keep": 1.5},
    "keep=nan must be a share": {"keep": math.nan},
    "keep=True must be a share": {"keep": True},
    "of='middle' must be 'outputs' or 'inner'": {"of": "middle"},
    "keep=0.999: layer1.0.bn2 .all are kept at this share": {"keep": 0.999},
    "gates=list must be ab.gates": {"by": "gates", "gates": [1]},
    "no mean weight of the gate at 'layer1.0.bn2'": {"by": "gates", "gates": {}},
    "unknown site of a gate 'layer1.0.bn1'": {
        "by": "gates",
        "gates": {"layer1.0.bn1": torch.ones(16)},
    },
}


@pytest.mark.parametrize("reason", WRONG)
def test_errors(reason):
    with pytest.raises(ValueError, match=reason):
        ab.prune(network(), **{"by": "magnitude", "example": images(), **WRONG[reason]})


def test_mean_weights_must_fit():
    model, x = network(), images()
    means = means_of(model)
    means["layer1.0.bn2"] = torch.ones(8)
    with pytest.raises(ValueError, match=r"are \[8\], but must be \[16\], one for each channel"):
        ab.prune(model, gates=means, example=x)
    means["layer1.0.bn2"] = torch.full((16,), math.nan)
    with pytest.raises(ValueError, match=r"scores of 'layer1.0.bn2' by 'gates' are not finite"):
        ab.prune(model, gates=means, example=x)
    with pytest.raises(ValueError, match=r"gates= has no mean weights, which by='gates' needs"):
        ab.prune(model, gates={}, of="inner", example=x)


def test_fused_folded_and_wrapped_models_are_refused(tmp_path):
    model, x = network(), images()
    with pytest.raises(ValueError, match="is folded already"):
        ab.prune(ab.fold(model, example=x), by="magnitude")
    with pytest.raises(ValueError, match=r"wrapped in DataParallel"):
        ab.prune(nn.DataParallel(model), by="magnitude")
    with pytest.raises(ValueError, match=r"was not made by ab.prune"):
        pruning_of(model)
    small = ab.prune(model, by="magnitude", example=x)
    with pytest.raises(ValueError, match="is pruned, and no base has its shapes"):
        ab.save(small, tmp_path)
    with pytest.raises(ValueError, match=r"is fused; prune ab.unfuse.model."):
        ab.prune(ab.fuse(model, example=x), by="magnitude")


@pytest.mark.parametrize("shape", [(2, 3), (2, 3, 4), (2, 3, 4, 5), (2, 3, 4, 5, 6)])
def test_expand_puts_zeros_where_channels_were(shape):
    kept, x = torch.tensor([0, 3, 4]), torch.randn(shape)
    wanted = x.new_zeros(2, 6, *shape[2:]).index_copy(1, kept, x)
    assert torch.equal(Expand(kept, 6, len(shape) - 2)(x), wanted)
    last = Expand(kept, 6, 0)(x.movedim(1, -1))
    assert torch.equal(last, wanted.movedim(1, -1))


def test_a_gate_of_the_networks_own_is_no_unknown_site():
    model = network()
    model.fc = nn.Sequential(ab.Recalibrate(64, spatial_dims=0), model.fc).double()
    model.eval()
    gates = ab.gates(model, [images(count=8)])
    assert set(gates.means()) == {*attached(model), "fc.0"}
    small = ab.prune(model, 0.5, gates=gates, example=images())
    x = images()
    check_same(small(x), with_outputs_zeroed(model, pruned_channels(small))(x))


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A run with AB on the digits."""
    folder = tmp_path_factory.mktemp("run") / "r"
    ab.train("resnet8", block="ab", epochs=2, device="cpu", output=str(folder), data="digits")
    return folder


@pytest.mark.parametrize("of", ["outputs", "inner"])
def test_the_command_writes_a_program(trained, tmp_path, capsys, of):
    from accuracy_booster.cli import main

    file = tmp_path / "small.pt2"
    words = ["prune", str(trained), "--keep", "0.5", "--of", of, "--output", str(file)]
    assert main([*words, "--device", "cpu", "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    whole = open_measured(trained, device="cpu")
    gates = ab.gates(
        whole.network,
        [inputs.args[0] for inputs in inputs_of(open_measured(trained, split="train"))],
    )
    size = whole.data.input_size
    small = ab.prune(whole.network.eval(), 0.5, of=of, gates=gates, example=torch.zeros(1, *size))
    assert told["parameters"] == [parameters(whole.network), parameters(small)]
    counted = [ab.complexity(m, input_size=size).macs for m in (whole.network, small)]
    assert told["macs"] == counted
    assert counted[1] < counted[0]
    program = torch.export.load(file).module()
    hits = {"before": 0, "after": 0}
    for batch in inputs_of(whole):
        x, labels = batch.args[0], batch.labels
        torch.testing.assert_close(program(x), small(x), rtol=1e-4, atol=1e-5)
        hits["before"] += int((whole.network(x).argmax(1) == labels).sum())
        hits["after"] += int((program(x).argmax(1) == labels).sum())
    count = len(whole.loader.dataset)
    assert told["top1"] == pytest.approx([100 * hits[k] / count for k in hits])
    program(torch.zeros(1, *size))
    assert main([*words, "--device", "cpu", "--by", "magnitude"]) == 0
    assert "3 of 3 places are smaller, 56 channels are gone" in capsys.readouterr().out


def test_the_command_tells_what_is_wrong(trained, capsys):
    from accuracy_booster.cli import main

    for words, reason in (
        (["--output", "small.onnx"], "must end in .pt2"),
        (["--by", "gate"], "unknown criterion 'gate'; nearest: gates"),
        (["--keep", "2"], "keep=2.0 must be a share"),
        (["--images", "0"], "--images 0 must be a whole number >= 1"),
    ):
        assert main(["prune", str(trained), "--device", "cpu", *words]) == 2
        assert reason in capsys.readouterr().err


def test_modes_and_what_is_frozen_stay():
    model, x = network().train(), images()
    gate = attached(model)["layer1.0.bn2"]
    gate.enabled = False
    for parameter in gate.parameters():
        parameter.requires_grad_(False)
    model.layer2[0].bn2.training = False
    model.layer3[0].conv2.weight.requires_grad_(False)
    small = ab.prune(model, 0.5, by="magnitude", example=x)
    assert not attached(small)["layer1.0.bn2.layer"].enabled
    assert attached(small)["layer2.0.bn2.layer"].enabled
    frozen = {name for name, p in small.named_parameters() if not p.requires_grad}
    own = {f"layer1.0.bn2.layer.recalibrate.{name}" for name, _ in gate.named_parameters()}
    assert frozen == {"layer3.0.conv2.weight", *own}
    resting = {name for name, m in small.named_modules() if not m.training}
    assert resting == {f"layer2.0.bn2{end}" for end in ("", ".layer", ".expand")}

"""Every residual branch is found, whatever writes it, sums it and whatever its rank; or why not."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

import accuracy_booster as ab
from accuracy_booster.surgery.attaching import attach, attached

C = 4
IMAGE = torch.zeros(1, 3, 12, 12)
RANKS = {1: (nn.Conv1d, nn.BatchNorm1d), 2: (nn.Conv2d, nn.BatchNorm2d)}
RANKS[3] = (nn.Conv3d, nn.BatchNorm3d)


def branch(channels: int = C, rank: int = 2, last: tuple[nn.Module, ...] = ()) -> nn.Sequential:
    conv, norm = RANKS[rank]
    layers = [conv(channels, channels, 3, padding=1), norm(channels), nn.ReLU()]
    return nn.Sequential(*layers, conv(channels, channels, 3, padding=1), norm(channels), *last)


class Net(nn.Module):
    """A stem, and then what a function does with its map and the branches b and (halved) h."""

    def __init__(self, run, rank: int = 2, last: tuple[nn.Module, ...] = ()):
        super().__init__()
        self.stem = RANKS[rank][0](3, C, 1)
        self.b = nn.ModuleList(branch(rank=rank, last=last) for _ in range(3))
        self.h = nn.ModuleList(branch(C // 2, rank) for _ in range(4))
        self.pool = nn.AvgPool2d(3, 1, 1)
        self.run = run

    def forward(self, x):
        return self.run(self, self.stem(x))


def names(model: nn.Module, example=IMAGE, **options) -> list[str]:
    planned = ab.plan(model, "ab", example=example, **options)
    assert planned.skipped == []
    return [gate.site.name for gate in planned.gates]


def assert_gates_act_once(model: nn.Module, example: torch.Tensor, x: torch.Tensor) -> None:
    """With every gate at 0.5, the network is the base with each site's output halved, once."""
    model = model.eval()
    sites = [gate.site for gate in ab.plan(model, "ab", example=example).gates]
    base = copy.deepcopy(model)
    attach(model, "ab", sites)
    with torch.no_grad():
        for gate in attached(model).values():
            for parameter in gate.parameters():
                parameter.zero_()
        for site in sites:
            base.get_submodule(site.name).register_forward_hook(lambda m, a, y: y / 2)
        torch.testing.assert_close(model(x), base(x), rtol=1e-4, atol=1e-5)


def in_zeros(net, x):
    out = torch.zeros(x.shape[0], C, *x.shape[2:])
    out[:, :3].copy_(x[:, :3])
    return out + net.b[0](out)


def padded_by_copy(net, x):
    out = x.new_zeros(x.shape[0], C, 16, 16)
    for i in range(len(x)):
        out[i, :, : x.shape[2], : x.shape[3]].copy_(x[i])
    return out + net.b[0](out)


def in_empty(net, x):
    out = torch.empty_like(x)
    out.copy_(x)
    out += net.b[0](x)
    return out


def by_index_put(net, x):
    out = torch.zeros_like(x)
    out.index_put_((torch.arange(len(x)),), x)
    return out + net.b[0](out)


def by_setitem(net, x):
    out = torch.zeros(x.shape[0], C, 16, 16)
    out[:, :, 2:-2, 2:-2] = x
    return out + net.b[0](out)


def through_a_view(net, x):
    y = net.b[0](x)
    y.view(-1).add_(x.reshape(-1))
    return y


def by_out(net, x):
    out = torch.empty_like(x)
    torch.add(x, net.b[0](x), out=out)
    return out + net.b[1](out)


def coupling(net, x):
    a, b = x.chunk(2, 1)
    a = a + net.h[0](b)
    b = b + net.h[1](a)
    a = a + net.h[2](b)
    return torch.cat((a, b + net.h[3](a)), 1)


ONE, TWO = ["b.0.4"], ["b.0.4", "b.1.4"]
FOUND = {
    "two branches": (lambda n, x: x + n.b[0](x) + n.b[1](x), TWO),
    "sum of a list": (lambda n, x: sum([x, n.b[0](x), n.b[1](x)]), TWO),
    "a pool beside": (lambda n, x: x + n.b[0](x) + n.pool(x), ONE),
    "zeros": (in_zeros, ONE),
    "padded by copy": (padded_by_copy, ONE),
    "empty_like": (in_empty, ONE),
    "index_put": (by_index_put, ONE),
    "setitem": (by_setitem, ONE),
    "a view": (through_a_view, ONE),
    "out=": (by_out, TWO),
    "x - b": (lambda n, x: x - n.b[0](x), ONE),
    "b - x": (lambda n, x: n.b[0](x) - x, ONE),
    "lerp": (lambda n, x: torch.lerp(x, n.b[0](x), 0.5), ONE),
    "addcmul": (lambda n, x: torch.addcmul(x, torch.ones(1), n.b[0](x)), ONE),
    "stack": (lambda n, x: torch.stack([x, n.b[0](x), n.b[1](x)]).sum(0), TWO),
    "foreach": (lambda n, x: torch._foreach_add([x], [n.b[0](x)])[0], ONE),
    "complex": (lambda n, x: (x.to(torch.cfloat) + n.b[0](x).to(torch.cfloat)).real, ONE),
    "alpha": (lambda n, x: torch.add(x, n.b[0](x), alpha=0.5), ONE),
    "detach": (lambda n, x: x.detach() + n.b[0](x), ONE),
    "where": (lambda n, x: torch.where(x > 0, x, torch.zeros(())) + n.b[0](x), ONE),
    "neg": (lambda n, x: x + -n.b[0](x), ONE),
    "abs": (lambda n, x: x + n.b[0](x).abs(), ONE),
    "flip": (lambda n, x: x + n.b[0](x).flip(3), ONE),
    "clamp": (lambda n, x: x + n.b[0](x).clamp(-1, 1), ONE),
    "flattened": (lambda n, x: (x.flatten(1) + n.b[0](x).flatten(1)).view_as(x), ONE),
    "coupling": (coupling, [f"h.{i}.4" for i in range(4)]),
}


@pytest.mark.parametrize("kind", FOUND)
def test_every_branch_is_a_site_and_its_gate_acts_once(kind):
    torch.manual_seed(0)
    run, sites = FOUND[kind]
    model = Net(run)
    assert sorted(names(model)) == sites
    assert_gates_act_once(model, IMAGE, torch.randn(2, 3, 12, 12))


def three_times(net, x):
    for _ in range(3):
        x = x + net.b[0](x)
    return x


SKIPPED = {
    "einsum": (lambda n, x: torch.einsum("nchw,nchw->nchw", x, n.b[0](x)), "torch.einsum"),
    "stack": (lambda n, x: torch.einsum("snchw->nchw", torch.stack([x, n.b[0](x)])), "torch.stack"),
    "maximum": (lambda n, x: torch.maximum(x, n.b[0](x)), "torch.maximum"),
    "complex": (lambda n, x: torch.complex(x, n.b[0](x)).abs(), "torch.complex"),
    "addcmul": (lambda n, x: torch.addcmul(x, x, n.b[0](x)), "torch.addcmul"),
    "index_add": (lambda n, x: x.clone().index_add_(0, torch.tensor([0]), n.b[0](x)), "index_add_"),
    "clamp": (lambda n, x: x + n.b[0](x).clamp(min=0.1), "ends in torch.clamp"),
    "pow": (lambda n, x: x + n.b[0](x).pow(2).exp(), "ends in torch.exp"),
    "loop": (three_times, r"runs 3 times in a pass; where=\['b.0.4'\]"),
}


@pytest.mark.parametrize("kind", SKIPPED)
def test_what_gets_no_gate_is_told_alone_and_beside_others(kind):
    run, reason = SKIPPED[kind]
    with pytest.raises(ValueError, match=f"has residual branches, but .*{reason}"):
        ab.plan(Net(run), "ab", example=IMAGE)
    beside = Net(lambda n, x: (y := run(n, x)) + n.b[2](y))
    planned = ab.plan(beside, "ab", example=IMAGE)
    assert [gate.site.name for gate in planned.gates] == ["b.2.4"]
    assert len(planned.skipped) == 1


def test_a_gate_stands_before_an_activation_be_it_a_module_or_a_function():
    model = Net(lambda n, x: x + n.b[0](x), last=(nn.ReLU(),))
    assert names(model) == ["b.0.4"]
    assert names(Net(lambda n, x: x + n.b[0](x).relu())) == ["b.0.4"]


@pytest.mark.parametrize("rank", [1, 3])
def test_maps_of_other_ranks_have_sites(rank):
    example = torch.zeros(1, 3, *(6, 5, 4)[:rank])
    model = Net(lambda n, x: x + n.b[0](x), rank=rank)
    gates = ab.plan(model, "ab", example=example).gates
    assert [(g.site.name, g.site.spatial_size) for g in gates] == [("b.0.4", (6, 5, 4)[:rank])]
    assert_gates_act_once(model, example, torch.randn(2, *example.shape[1:]))
    model = Net(lambda n, x: x + n.b[0](x), rank=rank)
    assert len(ab.plan(model, "ab").gates) == 1  # without an example, one of the first layer's rank


class Head(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv = Net(lambda n, x: x + n.b[0](x))
        self.f = nn.Sequential(nn.Linear(C, 8), nn.ReLU(), nn.Linear(8, C))

    def forward(self, x):
        x = self.conv(x).mean((2, 3))
        return x + self.f(x)


def test_a_residual_mlp_head_is_a_site():
    assert names(Head()) == ["conv.b.0.4", "f.2"]
    assert ab.plan(Head(), "ab", example=IMAGE).gates[1].site.spatial_size == ()


class WithAttention(nn.Module):
    def __init__(self, inside: bool):
        super().__init__()
        self.f, self.inside = branch(), inside

    def forward(self, x):
        y = self.f(x)
        return (y if self.inside else y * 2 + 1), y.mean((2, 3))


def test_a_module_that_returns_several_things_is_no_site():
    model = Net(lambda n, x: x + n.p(x)[0])
    model.p = WithAttention(inside=False)
    with pytest.raises(
        ValueError, match=r"module 'p' gives several values .* name a module inside"
    ):
        ab.plan(model, "ab", example=IMAGE, where=["p"])
    with pytest.raises(
        ValueError, match=r"residual branches, but .*'p' gives it together with other"
    ):
        ab.plan(model, "ab", example=IMAGE)


def test_a_placeholder_that_runs_may_be_named():
    model = Net(lambda n, x: x + n.p1(n.b[0](x)))
    model.p1 = nn.Identity()
    assert names(model, where=["p1"]) == ["p1"]
    with pytest.raises(ValueError, match=r"'b.1' is not run in a pass"):
        ab.plan(model, "ab", example=IMAGE, where=["b.1"])


@pytest.mark.parametrize("up", ["transposed", "interpolate"])
def test_a_branch_that_ends_in_upsampling_is_none(up):
    last = nn.ConvTranspose2d(C, C, 2, 2) if up == "transposed" else nn.Upsample(scale_factor=2)
    model = Net(lambda n, x: x + n.up(n.b[0](nn.functional.max_pool2d(x, 2))))
    model.up = last
    with pytest.raises(ValueError, match="no residual branch"):
        ab.plan(model, "ab", example=IMAGE)


def test_additive_attention_is_no_residual_sum():
    nets = pytest.importorskip("monai.networks.nets")
    model = nets.AttentionUnet(2, 1, 2, (4, 8, 16), (2, 2))
    with pytest.raises(ValueError, match="no residual branch"):
        ab.plan(model, "ab", example=torch.zeros(1, 1, 16, 16))


def test_lazy_layers_are_left_as_they_are():
    model = nn.Sequential(nn.LazyConv2d(4, 3), nn.ReLU())
    with pytest.raises(ValueError, match="no residual branch"):
        ab.plan(model, "ab", example=IMAGE)
    assert nn.parameter.is_lazy(model[0].weight)


def test_two_inputs_by_name_and_a_true_remedy():

    class Two(Net):
        def forward(self, *, image, scale):
            return super().forward(image) * scale

    model = Two(lambda n, x: x + n.b[0](x))
    assert names(model, {"image": IMAGE, "scale": torch.ones(1)}) == ONE
    with pytest.raises(ValueError, match=r"by name only: give example={'image': \.\.\., 'scale'"):
        ab.plan(model, "ab", example=IMAGE)


def networks():
    tv = pytest.importorskip("torchvision").models
    video, quantization = tv.video, tv.quantization
    clip = torch.zeros(1, 3, 4, 16, 16)
    return {
        "r3d_18": (lambda: video.r3d_18(weights=None), clip, 8),
        "r2plus1d_18": (lambda: video.r2plus1d_18(weights=None), clip, 8),
        "quantisable resnet18": (
            lambda: quantization.resnet18(weights=None, quantize=False),
            torch.zeros(1, 3, 32, 32),
            8,
        ),
        "fasterrcnn": (
            lambda: tv.detection.fasterrcnn_resnet50_fpn(
                weights=None, weights_backbone=None, min_size=64, max_size=64
            ),
            torch.zeros(1, 3, 64, 64),
            16,
        ),
    }


@pytest.mark.parametrize("name", ["r3d_18", "r2plus1d_18", "quantisable resnet18", "fasterrcnn"])
def test_networks_of_torchvision(name):
    build, example, expected = networks()[name]
    assert len(names(build(), example)) == expected


def test_octave_networks():
    provider = pytest.importorskip("pytorchcv.model_provider")
    assert len(names(provider.get_model("octresnet10_ad2"), torch.zeros(1, 3, 224, 224))) == 7


@pytest.mark.parametrize(("name", "expected"), [("SegResNet", 12), ("UNet", 4), ("resnet18", 8)])
def test_networks_of_medical_imaging(name, expected):
    nets = pytest.importorskip("monai.networks.nets")
    build = {
        "SegResNet": lambda: nets.SegResNet(3, in_channels=1, init_filters=8),
        "UNet": lambda: nets.UNet(3, 1, 2, (4, 8, 16), (2, 2), num_res_units=2),
        "resnet18": lambda: nets.resnet18(spatial_dims=3, n_input_channels=1),
    }[name]
    assert len(names(build(), torch.zeros(1, 1, 16, 16, 16))) == expected


def test_maps_of_tokens_and_linear_maps_may_be_named():

    class Tokens(Net):
        def __init__(self):
            super().__init__(None)
            self.mlp, self.head = nn.Linear(C, C), nn.Linear(C, 5)

        def forward(self, x):
            return self.head(self.mlp(self.stem(x).flatten(2).transpose(1, 2)).mean(1))

    assert names(Tokens(), where=["mlp"]) == ["mlp"]  # by name it is a map with channels last
    assert names(Tokens(), where=["head"]) == ["head"]

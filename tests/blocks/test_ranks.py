"""Gates on maps [N, C, L], [N, C, H, W], [N, C, D, H, W] and on [N, C]: value, fast path, cost."""

from __future__ import annotations

import copy

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import accuracy_booster as ab
from accuracy_booster.analysis import complexity
from accuracy_booster.surgery.attaching import attach
from accuracy_booster.surgery.sites import Site

pytestmark = pytest.mark.filterwarnings("ignore:the batch norm of the gate")

SPACES = {0: (), 1: (6,), 2: (5, 4), 3: (3, 4, 2)}
OF_MEAN = ["ab", "ab_plus", "ab_g2", "ab_g4", "ab_nobn", "se", "eca", "design_e", "design_f"]
OF_MEAN += [
    "ge_theta_minus",
    "gmp | dense(groups=C) | bn | sigmoid",
    "gap + gmp | bottleneck(4) | sigmoid",
]
OF_POSITIONS = [
    "cbam",
    "ge_theta",
    "ge_theta_plus",
    "design_g_bn",
    "design_h",
    "design_i",
    "design_l",
]
OF_POSITIONS += ["design_n", "dw3_bn", "gather(2) | sigmoid", "gather(4, learned=true) | sigmoid"]
CLOSE = {"rtol": 1e-9, "atol": 1e-11}


@pytest.fixture(autouse=True)
def _seed():
    torch.manual_seed(0)


def randomise(model: nn.Module) -> nn.Module:
    with torch.no_grad():
        for name, value in [*model.named_parameters(), *model.named_buffers()]:
            if value.is_floating_point():
                value.copy_(
                    torch.rand_like(value) + 0.5 if "var" in name else torch.randn_like(value)
                )
    return model


def by_hand(block: ab.Recalibrate, x: torch.Tensor, training: bool) -> torch.Tensor:
    """AB on x[N, C, ...], from the paper's formulas."""
    gate = block[0]
    z = x.flatten(2).mean(2) if x.ndim > 2 else x
    z = z * gate.dense.weight[:, 0]
    bn = gate.bn
    mean, var = (
        (z.mean(0), z.var(0, correction=0)) if training else (bn.running_mean, bn.running_var)
    )
    z = (z - mean) / torch.sqrt(var + bn.eps) * bn.weight + bn.bias
    return x * torch.sigmoid(z).reshape(*z.shape, *[1] * (x.ndim - 2))


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("dims", SPACES)
def test_ab_is_the_papers_formula_on_every_rank(dims, training):
    block = randomise(ab.Recalibrate(8, "ab", spatial_dims=dims).double()).train(training)
    x = torch.randn(5, 8, *SPACES[dims], dtype=torch.float64)
    expected = by_hand(block, x, training)  # before running statistics move
    torch.testing.assert_close(block(x), expected, **CLOSE)


@pytest.mark.parametrize("layout", ["NCHW", "NHWC"])
@pytest.mark.parametrize("dims", [0, 1, 3])
@pytest.mark.parametrize("text", OF_MEAN)
def test_a_gate_of_the_mean_sees_no_rank(text, dims, layout):
    """The same map in another arrangement of its positions: as [N, C, positions, 1]."""
    flat = randomise(ab.Recalibrate(16, text).double()).eval()
    block = ab.Recalibrate(16, text, spatial_size=SPACES[dims], layout=layout).double().eval()
    block.load_state_dict(flat.state_dict())  # the same names and shapes
    x = torch.randn(3, 16, *SPACES[dims], dtype=torch.float64)
    expected = flat(x.reshape(3, 16, -1, 1)).reshape(x.shape)
    given = x.movedim(1, -1) if layout == "NHWC" else x
    found = block(given)
    torch.testing.assert_close(
        found.movedim(-1, 1) if layout == "NHWC" else found, expected, **CLOSE
    )


@pytest.mark.parametrize("dims", [1, 3])
@pytest.mark.parametrize("text", OF_POSITIONS)
def test_a_gate_of_positions_on_one_and_three_dimensions(text, dims):
    """They keep shapes and give gradients; in 1-D they are the 2-D ones on a map of one row."""
    size = SPACES[dims]
    block = randomise(ab.Recalibrate(16, text, spatial_size=size).double()).eval()
    x = torch.randn(3, 16, *size, dtype=torch.float64, requires_grad=True)
    y = block(x)
    assert y.shape == x.shape
    y.sum().backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in block.parameters())
    if dims == 1:  # the same weights on [N, C, 1, L]: a kernel's middle row
        flat = ab.Recalibrate(16, text, spatial_size=(1, *size)).double().eval()
        state = flat.state_dict()
        for name, value in block.state_dict().items():
            if value.ndim == 3 and state[name].ndim == 4:
                middle = torch.zeros_like(state[name])
                middle[:, :, middle.shape[2] // 2] = value
                value = middle
            state[name] = value
        flat.load_state_dict(state)
        torch.testing.assert_close(flat(x[:, :, None])[:, :, 0], y, **CLOSE)


@pytest.mark.parametrize("text", OF_POSITIONS)
def test_what_needs_positions_is_refused_on_vectors(text):
    with pytest.raises(ValueError, match=r"needs positions, and \[N, 16\] has none; use a block"):
        ab.Recalibrate(16, text, spatial_size=())


def test_cbam_in_three_dimensions_is_a_3d_convolution():
    block = randomise(
        ab.Recalibrate(16, "channel_pool | conv2d(3) | sigmoid", spatial_dims=3)
    ).eval()
    x = torch.randn(2, 16, 3, 4, 5)
    layer = block[0].conv2d
    assert layer.weight.shape == (1, 2, 3, 3, 3)
    planes = block[0].channel_pool(x)
    expected = x * torch.sigmoid(F.conv3d(planes, layer.weight, layer.bias, padding=1))
    torch.testing.assert_close(block(x), expected)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"spatial_dims": 4}, "spatial_dims=4 must be 0, 1, 2 or 3"),
        ({"spatial_size": (1, 2, 3, 4)}, "must have 0 to 3 sides"),
        ({"spatial_size": (4, 4), "spatial_dims": 3}, "has 2 sides, and spatial_dims=3"),
        ({"spatial_size": (0,)}, "must be >= 1"),
        ({"recipe": "design_g", "spatial_dims": 3}, r"pass spatial_size=\(D, H, W\)"),
    ],
)
def test_sizes_are_checked(options, message):
    with pytest.raises(ValueError, match=message):
        ab.Recalibrate(16, **options)


def test_a_map_of_another_rank_is_named_with_the_remedy():
    with pytest.raises(
        ValueError, match=r"takes \[N, 8, H, W\], got \[2, 8, 5\]; .*spatial_dims=1"
    ):
        ab.Recalibrate(8)(torch.zeros(2, 8, 5))
    with pytest.raises(
        ValueError, match=r"channels last got \[2, 5, 8\]; build it with spatial_dims=1"
    ):
        ab.Recalibrate(8, layout="NHWC")(torch.zeros(2, 5, 8))
    assert ab.Recalibrate(8, spatial_size=7).spatial_size == (7, 7)


# --- fuse, fold, count ----------------------------------------------------------------------------

CONV = {0: nn.Linear, 1: nn.Conv1d, 2: nn.Conv2d, 3: nn.Conv3d}
NORM = {0: nn.BatchNorm1d, 1: nn.BatchNorm1d, 2: nn.BatchNorm2d, 3: nn.BatchNorm3d}


class Block(nn.Module):
    def __init__(self, dims: int, channels: int, kernel: int, bias: bool):
        super().__init__()

        def layer() -> nn.Module:
            if dims == 0:
                return nn.Linear(channels, channels, bias=bias)
            return CONV[dims](channels, channels, kernel, padding=kernel // 2, bias=bias)

        self.conv1, self.bn1 = layer(), NORM[dims](channels)
        self.conv2, self.bn2 = layer(), NORM[dims](channels)

    def forward(self, x):
        branch = F.relu(self.bn1(self.conv1(x)))
        return F.relu(self.bn2(self.conv2(branch)) + x)


class Last(Block):
    """Ends in a convolution."""

    def __init__(self, *args):
        super().__init__(*args)
        del self.bn2

    def forward(self, x):
        return self.conv2(F.relu(self.bn1(self.conv1(x)))) + x


def boosted(dims, kernel=3, recipe="ab", kind=Block, bias=False):
    net = nn.Sequential(kind(dims, 8, kernel, bias), kind(dims, 8, kernel, bias))
    last = "bn2" if kind is Block else "conv2"
    sites = [Site(f"{i}.{last}", 8, SPACES[dims]) for i in (0, 1)]
    attach(net, recipe, sites)
    return randomise(net.double()), torch.randn(4, 8, *SPACES[dims], dtype=torch.float64)


def results(net, x):
    x = x.clone().requires_grad_()
    for p in net.parameters():
        p.grad = None
    y = net(x)
    weights = torch.linspace(-1, 1, y.numel(), dtype=y.dtype).reshape(y.shape)
    (y * weights).sum().backward()
    return [
        y.detach(),
        x.grad,
        *(p.grad for p in net.parameters()),
        *(b.clone() for b in net.buffers()),
    ]


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("recipe", ["ab", "se"])
@pytest.mark.parametrize("kernel", [1, 3])
@pytest.mark.parametrize("kind", [Block, Last])
@pytest.mark.parametrize("dims", [1, 3])
def test_fused_networks_compute_the_same(dims, kind, kernel, recipe, training):
    net, x = boosted(dims, kernel, recipe, kind)
    other = ab.fuse(copy.deepcopy(net), example=x[:1])
    assert ab.fast_path(other).taken == 2, str(ab.fast_path(other))
    expected = results(net.train(training), x)
    for a, b in zip(expected, results(other.train(training), x), strict=True):
        torch.testing.assert_close(b, a, rtol=1e-8, atol=1e-9)
    ab.unfuse(other)
    assert {type(m) for m in other.modules()} == {type(m) for m in net.modules()}


def test_vectors_are_not_fused_and_the_reason_is_true():
    net, x = boosted(0)
    expected = net.train()(x)
    other = ab.fuse(copy.deepcopy(net), example=x[:2])
    path = ab.fast_path(other)
    assert path.taken == 0
    assert "its output is [N, C]: there is no space to take means over" in str(path)
    assert torch.equal(other.train()(x), expected)


@pytest.mark.parametrize("recipe", ["ab", "se", "eca", "ab_g2"])
@pytest.mark.parametrize("kernel", [1, 3])
@pytest.mark.parametrize("kind", [Block, Last])
@pytest.mark.parametrize("dims", [0, 1, 3])
def test_folded_networks_compute_the_same(dims, kind, kernel, recipe):
    net, x = boosted(dims, kernel, recipe, kind, bias=True)
    net.eval()
    folded = ab.fold(net, example=x, verify=True)
    assert ab.fast_path(folded).taken == 2, str(ab.fast_path(folded))
    assert not [m for m in folded.modules() if isinstance(m, nn.modules.batchnorm._BatchNorm)]
    torch.testing.assert_close(folded(x), net(x), rtol=1e-9, atol=1e-9)
    grads = []
    for model in (net, folded):  # of the input, for saliency maps
        given = x.clone().requires_grad_()
        model(given).square().sum().backward()
        grads.append(given.grad)
    torch.testing.assert_close(grads[1], grads[0], rtol=1e-8, atol=1e-8)


@pytest.mark.parametrize("form", ["input", "output"])
@pytest.mark.parametrize("dims", [1, 3])
def test_both_forms_of_a_folded_gate(monkeypatch, dims, form):
    from accuracy_booster.fastpath import folding

    monkeypatch.setattr(folding, "choose_form", lambda *_: form)
    net, x = boosted(dims, 3, "ab_plus", bias=True)
    folded = ab.fold(net.eval(), example=x)
    assert f"form={form}" in str(folded)
    torch.testing.assert_close(folded(x), net(x), rtol=1e-9, atol=1e-9)


def test_tap_sums_of_three_dimensions_are_those_of_the_convolution():
    from accuracy_booster.ops.pooled_conv import pooled_conv

    for options in ({"padding": 2, "dilation": 2}, {"padding": (0, 1, 3), "groups": 2}, {}):
        conv = nn.Conv3d(4, 6, (3, 2, 5), **options).double()
        h = torch.randn(2, 4, 7, 6, 9, dtype=torch.float64)
        torch.testing.assert_close(pooled_conv(h, conv), conv(h).mean((2, 3, 4)), **CLOSE)


@pytest.mark.parametrize("dims", SPACES)
def test_counts_on_every_rank(dims):
    """By hand: layers 8 * 8 * kernel per position, a gate of AB 8 multiply-adds."""
    net, _ = boosted(dims, 3)
    found = complexity(net, (8, *SPACES[dims]), batch_size=3)
    positions = torch.Size(SPACES[dims]).numel()
    layers = 4 * 8 * 8 * 3**dims * positions
    assert (found.base.macs, found.extra.macs) == (3 * layers, 3 * 2 * 8)
    assert [b.spatial_size for b in found.blocks] == [SPACES[dims]] * 2
    assert found.input_size == (8, *SPACES[dims])


def test_the_gather_in_three_dimensions_is_the_mean_over_windows():
    gather = ab.Recalibrate(2, "gather(2) | sigmoid", spatial_dims=3)[0].gather
    for size in ((3, 4, 2), (7, 6, 5)):
        x = torch.randn(2, 2, *size)
        expected = torch.stack(
            [
                x[:, :, max(d - 1, 0) : d + 2, max(h - 1, 0) : h + 2, max(w - 1, 0) : w + 2].mean(
                    (2, 3, 4)
                )
                for d in range(0, size[0], 2)
                for h in range(0, size[1], 2)
                for w in range(0, size[2], 2)
            ],
            2,
        )
        torch.testing.assert_close(gather(x).flatten(2), expected)


@pytest.mark.parametrize("dims", [1, 2, 3])
def test_conventions_count_what_norms_give_on_every_rank(dims):
    """Four norms of 8 channels at each position; the gates' norms are no maps'."""
    net, _ = boosted(dims, 3)
    size = (8, *SPACES[dims])
    more = complexity(net, size, convention="mac+norm").macs - complexity(net, size).macs
    assert more == 4 * 8 * torch.Size(SPACES[dims]).numel()


POOLS = {
    1: [nn.MaxPool1d(2), nn.AvgPool1d(2), nn.AdaptiveAvgPool1d(1), nn.AdaptiveMaxPool1d(1)],
    3: [nn.MaxPool3d(2), nn.AvgPool3d(2), nn.AdaptiveAvgPool3d(1), nn.AdaptiveMaxPool3d(1)],
}
FREE = {
    1: [
        nn.Upsample(scale_factor=2),
        nn.ReflectionPad1d(1),
        nn.ReplicationPad1d(1),
        nn.ZeroPad1d(1),
    ],
    3: [
        nn.Upsample(scale_factor=2),
        nn.ReflectionPad3d(1),
        nn.ReplicationPad3d(1),
        nn.ZeroPad3d(1),
    ],
}


@pytest.mark.parametrize("device", ["cpu", "meta"])
@pytest.mark.parametrize("dims", POOLS)
def test_pooling_counts_what_it_reads_and_padding_nothing(dims, device):
    size = (3, *[4] * dims)
    for kind, counts in ((POOLS, 1), (FREE, 0)):
        for layer in kind[dims]:
            net = nn.Sequential(layer)
            found = complexity(net.to(device), size)
            assert found.flops == counts * 3 * 4**dims, layer
            assert not found.uncounted


# --- networks of torchvision ----------------------------------------------------------------------


@pytest.mark.parametrize("name", ["r3d_18", "mc3_18", "r2plus1d_18"])
def test_video_networks_count_as_torchvision_publishes(name):
    from torchvision.models import get_model_weights, video

    weights = get_model_weights(name).DEFAULT
    with torch.device("meta"):
        model = getattr(video, name)()
    found = complexity(model, (3, 16, 112, 112))
    assert found.parameters == weights.meta["num_params"]
    assert found.macs / 1e9 == pytest.approx(weights.meta["_ops"], abs=1e-3)


@pytest.mark.parametrize("name", ["r3d_18", "r2plus1d_18"])
def test_video_networks_are_fused_and_folded(name):
    from torchvision.models import video

    net = getattr(video, name)(num_classes=5)
    sites = [
        Site(f"{module}.conv2.1", block.conv2[1].num_features, (1, 1, 1))
        for module, block in net.named_modules()
        if isinstance(block, video.resnet.BasicBlock)
    ]
    assert len(sites) == 8
    attach(net, "ab", sites)
    net.double()
    with torch.no_grad():
        for module in net.modules():
            if isinstance(module, nn.modules.batchnorm._BatchNorm):
                module.running_var.uniform_(0.5, 2)
                module.running_mean.normal_()
    x = torch.randn(4, 3, 4, 16, 16, dtype=torch.float64)
    folded = ab.fold(net.eval(), example=x, verify=True)
    fused = ab.fuse(copy.deepcopy(net), example=x[:1])
    for model in (folded, fused):
        assert ab.fast_path(model).taken == 8, str(ab.fast_path(model))
        torch.testing.assert_close(model(x), net(x), rtol=1e-8, atol=1e-9)
    assert not [m for m in folded.modules() if isinstance(m, nn.BatchNorm3d)]
    other = copy.deepcopy(net).train()
    # of two samples a norm amplifies rounding
    torch.testing.assert_close(fused.train()(x), other(x), rtol=1e-5, atol=1e-6)
    for (key, a), b in zip(other.state_dict().items(), fused.state_dict().values(), strict=True):
        torch.testing.assert_close(b, a, rtol=1e-5, atol=1e-7, msg=key)

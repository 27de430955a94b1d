"""Every block against an independent implementation, and over shapes, layouts and precisions."""

# N batch, C channels, H W space

from __future__ import annotations

import copy
import math
import pickle
import re

import pytest
import timm.layers
import torch
import torch.nn.functional as F
from pytorchcv.models.cbamresnet import CbamBlock
from pytorchcv.models.common.att import SEBlock
from timm.layers.cbam import CbamModule
from torch import nn

import accuracy_booster as ab
from accuracy_booster import ops
from accuracy_booster.blocks import TABLE, layers, recipe

pytestmark = pytest.mark.filterwarnings("error")

NAMES = [*TABLE, "ab_g2", "ab_g4"]
GATHERS = ["gather(2) | sigmoid", "gather(4) | sigmoid", "gather(4, learned=true) | sigmoid"]
EVERY = [*NAMES, *GATHERS]
BATCH_NORM = nn.modules.batchnorm._BatchNorm
SHAPES = [(3, 32, 5, 7), (2, 32, 1, 1), (4, 48, 8, 6)]
# a weight for each position
SIZED = ["ge_theta", "ge_theta_plus", "ge_theta_plus_ab", "ge_theta_bn", "ge_theta_plus_bn"]
SIZED += [f"design_{x}" for x in ("g", "g_bn", "h", "h_bn")]
# a batch norm of one value per channel and sample, whatever H and W
VECTOR_NORM = ["ab", "ab_g2", "ab_g4", "ab_plus", "ge_theta_plus_ab", "design_f", "design_g_bn"]
VECTOR_NORM += ["design_h_bn", "design_n", "design_o", "ge_theta_bn", "ge_theta_plus_bn"]
# a batch norm over space too: (h, w) of what it sees, from (H, W)
MAP_NORM = {
    "cbam": lambda h, w: (h, w),
    "dw3_bn": lambda h, w: (h, w),
    "dw9_bn": lambda h, w: (h, w),
    "gather(4, learned=true) | sigmoid": lambda h, w: (math.ceil(h / 4), math.ceil(w / 4)),
}


@pytest.fixture(autouse=True)
def _seed(monkeypatch):
    torch.manual_seed(0)
    monkeypatch.setattr(layers, "_warned", True)  # of small batches, which is told once


def block(text, channels=32, size=(5, 7), dtype=torch.float64):
    return ab.Recalibrate(channels, text, spatial_size=size).to(dtype)


def randomise(module):
    """Weights, norms and running statistics far from their initial values."""
    with torch.no_grad():
        for name, value in [*module.named_parameters(), *module.named_buffers()]:
            if name.endswith("num_batches_tracked"):
                continue
            if name.endswith("running_var"):
                value.uniform_(0.5, 2)
            else:
                value.normal_(std=0.5)
    return module


# --- independent implementations ------------------------------------------------------------------
# Each is a module whose parameters, in order of execution, are those of ours in another shape.


class AbByHand(nn.Module):
    """Section 3: y = GAP(x), p = sigmoid(BN(W y)), W diagonal (AB) or full (AB-Plus)."""

    def __init__(self, c, full):
        super().__init__()
        self.weight = nn.Parameter(torch.empty(c, c) if full else torch.empty(c))
        self.gamma, self.beta = nn.Parameter(torch.empty(c)), nn.Parameter(torch.empty(c))
        self.register_buffer("mean", torch.empty(c))
        self.register_buffer("var", torch.empty(c))

    def forward(self, x):
        n, _, h, w = x.shape
        y = x.sum(dim=3).sum(dim=2) / (h * w)
        if self.weight.ndim == 1:
            z = self.weight * y
        else:
            z = torch.stack([(self.weight * sample).sum(1) for sample in y])
        mean, var = self.mean, self.var
        if self.training:
            mean = z.sum(0) / n
            var = ((z - mean) ** 2).sum(0) / n
            with torch.no_grad():
                self.mean.mul_(0.9).add_(0.1 * mean)
                self.var.mul_(0.9).add_(0.1 * var * n / (n - 1))
        z = self.gamma * (z - mean) / (var + 1e-5) ** 0.5 + self.beta
        return x * (1 / (1 + (-z).exp())).reshape(n, -1, 1, 1)


class Stack(nn.Sequential):
    """x * sigmoid(layers(x)) from torch.nn's layers on maps, upsampled by nearest neighbour."""

    def forward(self, x):
        p = torch.sigmoid(super().forward(x))
        if p.shape[-2:] not in ((1, 1), x.shape[-2:]):
            p = F.interpolate(p, size=x.shape[-2:], mode="nearest")
        return x * p


def mlp(c):
    return [nn.Conv2d(c, max(1, c // 16), 1), nn.ReLU(), nn.Conv2d(max(1, c // 16), c, 1)]


def ab_head(c, groups):
    return [nn.Conv2d(c, c, 1, groups=groups, bias=False), nn.BatchNorm2d(c)]


def gap():
    return nn.AdaptiveAvgPool2d(1)


def whole(c, h, w, groups, bias):
    return nn.Conv2d(c, c, (h, w), groups=groups, bias=bias)


def same(c, k, groups, bias=True):
    return nn.Conv2d(c, c, k, padding=k // 2, groups=groups, bias=bias)


def strided(c):
    return [nn.Conv2d(c, c, 3, 2, padding=1, groups=c, bias=False), nn.BatchNorm2d(c)]


def gather_excite(c, extent):
    return timm.layers.GatherExcite(c, extra_params=False, extent=extent, use_mlp=False)


def se_timm(c):
    return timm.layers.SqueezeExcite(c, rd_channels=max(1, c // 16))


def cbam_pytorchcv(c, h, w):
    theirs = CbamBlock(c, 16)
    theirs.sp_gate.conv.bn.momentum = 0.01  # the authors'
    return theirs


def norm(c):
    return nn.BatchNorm2d(c, momentum=0.05)


CBAM_NO_BIAS = (
    "gap + gmp | bottleneck(16, bias=false) | sigmoid ; "
    "channel_pool(order=mean_max) | conv2d(7) | bn | sigmoid"
)
# (recipe, what it is compared with, how it is made from C, H, W)
REFERENCES = [
    ("ab", "by hand", lambda c, h, w: AbByHand(c, full=False)),
    ("ab", "torch.nn", lambda c, h, w: Stack(gap(), *ab_head(c, c))),
    ("ab_plus", "by hand", lambda c, h, w: AbByHand(c, full=True)),
    ("ab_plus", "torch.nn", lambda c, h, w: Stack(gap(), *ab_head(c, 1))),
    ("ab_g2", "torch.nn", lambda c, h, w: Stack(gap(), *ab_head(c, 2))),
    ("ab_g4", "torch.nn", lambda c, h, w: Stack(gap(), *ab_head(c, 4))),
    ("ab_nobn", "torch.nn", lambda c, h, w: Stack(gap(), nn.Conv2d(c, c, 1, groups=c))),
    ("ab_plus_nobn", "torch.nn", lambda c, h, w: Stack(gap(), nn.Conv2d(c, c, 1))),
    ("se", "timm", lambda c, h, w: se_timm(c)),
    ("se", "pytorchcv", lambda c, h, w: SEBlock(c, 16)),
    ("eca", "timm", lambda c, h, w: timm.layers.EcaModule(channels=c)),
    ("cbam", "pytorchcv", cbam_pytorchcv),
    (CBAM_NO_BIAS, "timm", lambda c, h, w: CbamModule(c)),
    ("ge_theta_minus", "timm", lambda c, h, w: gather_excite(c, 0)),
    ("gather(2) | sigmoid", "timm", lambda c, h, w: gather_excite(c, 2)),
    ("gather(4) | sigmoid", "timm", lambda c, h, w: gather_excite(c, 4)),
    (
        "gather(4, learned=true) | sigmoid",
        "torch.nn",
        lambda c, h, w: Stack(*strided(c), nn.ReLU(), *strided(c)),
    ),
    (
        "gather(2, learned=true) | bottleneck(16) | sigmoid",
        "torch.nn",
        lambda c, h, w: Stack(*strided(c), *mlp(c)),
    ),
    ("ge_theta", "torch.nn", lambda c, h, w: Stack(whole(c, h, w, c, True))),
    ("ge_theta_plus", "torch.nn", lambda c, h, w: Stack(whole(c, h, w, c, True), *mlp(c))),
    (
        "ge_theta_plus_ab",
        "torch.nn",
        lambda c, h, w: Stack(whole(c, h, w, c, True), *ab_head(c, c)),
    ),
    ("ge_theta_bn", "torch.nn", lambda c, h, w: Stack(whole(c, h, w, c, False), norm(c))),
    (
        "ge_theta_plus_bn",
        "torch.nn",
        lambda c, h, w: Stack(whole(c, h, w, c, False), norm(c), nn.ReLU(), *mlp(c)),
    ),
    ("design_e", "torch.nn", lambda c, h, w: Stack(gap())),
    ("design_f", "torch.nn", lambda c, h, w: Stack(gap(), nn.BatchNorm2d(c))),
    ("design_g", "torch.nn", lambda c, h, w: Stack(whole(c, h, w, c, True))),
    (
        "design_g_bn",
        "torch.nn",
        lambda c, h, w: Stack(whole(c, h, w, c, False), nn.BatchNorm2d(c)),
    ),
    ("design_h", "torch.nn", lambda c, h, w: Stack(whole(c, h, w, 1, True))),
    (
        "design_h_bn",
        "torch.nn",
        lambda c, h, w: Stack(whole(c, h, w, 1, False), nn.BatchNorm2d(c)),
    ),
    ("design_i", "torch.nn", lambda c, h, w: Stack(same(c, 3, 1))),
    ("design_j", "torch.nn", lambda c, h, w: Stack(same(c, 3, c))),
    ("design_k", "torch.nn", lambda c, h, w: Stack(same(c, 7, 1))),
    ("design_l", "torch.nn", lambda c, h, w: Stack(same(c, 7, c))),
    ("design_m", "torch.nn", lambda c, h, w: Stack(same(c, 7, c), gap())),
    (
        "design_n",
        "torch.nn",
        lambda c, h, w: Stack(same(c, 7, c, False), gap(), *ab_head(c, c)),
    ),
    (
        "design_o",
        "torch.nn",
        lambda c, h, w: Stack(same(c, 7, c, False), gap(), *ab_head(c, 1)),
    ),
    ("dw3_bn", "torch.nn", lambda c, h, w: Stack(same(c, 3, c, False), nn.BatchNorm2d(c))),
    ("dw9_bn", "torch.nn", lambda c, h, w: Stack(same(c, 9, c, False), nn.BatchNorm2d(c))),
]


def statistics(module):
    return [b for name, b in module.named_buffers() if not name.endswith("num_batches_tracked")]


def test_every_recipe_has_an_independent_implementation():
    assert {text for text, _, _ in REFERENCES} >= set(EVERY)


@pytest.mark.parametrize("training", [True, False], ids=["training", "eval"])
@pytest.mark.parametrize("shape", SHAPES, ids=lambda s: "x".join(map(str, s)))
@pytest.mark.parametrize(
    ("text", "source", "make"), REFERENCES, ids=[f"{t}-{source}" for t, source, _ in REFERENCES]
)
def test_output_and_gradients_match(text, source, make, shape, training):
    _, c, h, w = shape
    ours = randomise(block(text, c, (h, w))).train(training)
    theirs = make(c, h, w).double().train(training)
    with torch.no_grad():
        for mine, other in zip(ours.parameters(), theirs.parameters(), strict=True):
            other.copy_(mine.reshape(other.shape))
        for mine, other in zip(statistics(ours), statistics(theirs), strict=True):
            other.copy_(mine.reshape(other.shape))
    x = (2 * torch.randn(shape, dtype=torch.float64) + 0.3).requires_grad_()
    x_theirs = x.detach().clone().requires_grad_()
    y, expected = ours(x), theirs(x_theirs)
    torch.testing.assert_close(y, expected, rtol=1e-9, atol=1e-11)
    direction = torch.randn_like(y)
    y.backward(direction)
    expected.backward(direction)
    torch.testing.assert_close(x.grad, x_theirs.grad, rtol=1e-8, atol=1e-10)
    for mine, other in zip(ours.parameters(), theirs.parameters(), strict=True):
        grad = mine.grad.reshape(other.shape)
        torch.testing.assert_close(grad, other.grad, rtol=1e-8, atol=1e-10)
    for mine, other in zip(statistics(ours), statistics(theirs), strict=True):
        torch.testing.assert_close(mine.reshape(other.shape), other, rtol=1e-9, atol=1e-11)


@pytest.mark.parametrize("channels", [8, 16, 24, 40, 100, 256])
def test_se_width_is_floored(channels):
    hidden = max(1, channels // 16)
    ours, theirs = block("se", channels), timm.layers.SqueezeExcite(channels, rd_channels=hidden)
    assert [p.numel() for p in ours.parameters()] == [p.numel() for p in theirs.parameters()]
    y = ours(torch.randn(2, channels, 3, 3, dtype=torch.float64))
    assert y.isfinite().all()


@pytest.mark.parametrize("channels", [1, 2, 8, 16, 32, 48, 64, 128, 256, 512, 1024, 2048])
def test_eca_width_is_timms(channels):
    ours, theirs = block("eca", channels), timm.layers.EcaModule(channels=channels)
    assert [p.numel() for p in ours.parameters()] == [p.numel() for p in theirs.parameters()]


# --- parameters -----------------------------------------------------------------------------------


def kind_counts(module):
    """(block weights, biases, batch norm's gamma and beta), the paper's conventions apart."""
    counts = [0, 0, 0]
    for name, value in module.named_parameters():
        owner = module.get_submodule(name.rpartition(".")[0])
        norm = isinstance(owner, BATCH_NORM)
        counts[2 if norm else name.endswith("bias")] += value.numel()
    return tuple(counts)


COUNTS = {  # of C, H, W; r = 16 (paper, Table 1, sections 5.1 and 6.3; counting.md)
    "ab": lambda c, h, w: (c, 0, 2 * c),
    "ab_g2": lambda c, h, w: (c * c // 2, 0, 2 * c),
    "ab_g4": lambda c, h, w: (c * c // 4, 0, 2 * c),
    "ab_plus": lambda c, h, w: (c * c, 0, 2 * c),
    "ab_nobn": lambda c, h, w: (c, c, 0),
    "ab_plus_nobn": lambda c, h, w: (c * c, c, 0),
    "se": lambda c, h, w: (2 * c * c // 16, c // 16 + c, 0),
    "eca": lambda c, h, w: (3, 0, 0),
    "cbam": lambda c, h, w: (2 * c * c // 16 + 98, c // 16 + c, 2),
    "ge_theta_minus": lambda c, h, w: (0, 0, 0),
    "ge_theta": lambda c, h, w: (c * h * w, c, 0),
    "ge_theta_plus": lambda c, h, w: (c * h * w + 2 * c * c // 16, c + c // 16 + c, 0),
    "ge_theta_plus_ab": lambda c, h, w: (c * h * w + c, c, 2 * c),
    "ge_theta_bn": lambda c, h, w: (c * h * w, 0, 2 * c),
    "ge_theta_plus_bn": lambda c, h, w: (c * h * w + 2 * c * c // 16, c // 16 + c, 2 * c),
    "design_e": lambda c, h, w: (0, 0, 0),
    "design_f": lambda c, h, w: (0, 0, 2 * c),
    "design_g": lambda c, h, w: (c * h * w, c, 0),
    "design_g_bn": lambda c, h, w: (c * h * w, 0, 2 * c),
    "design_h": lambda c, h, w: (c * c * h * w, c, 0),
    "design_h_bn": lambda c, h, w: (c * c * h * w, 0, 2 * c),
    "design_i": lambda c, h, w: (9 * c * c, c, 0),
    "design_j": lambda c, h, w: (9 * c, c, 0),
    "design_k": lambda c, h, w: (49 * c * c, c, 0),
    "design_l": lambda c, h, w: (49 * c, c, 0),
    "design_m": lambda c, h, w: (49 * c, c, 0),
    "design_n": lambda c, h, w: (49 * c + c, 0, 2 * c),
    "design_o": lambda c, h, w: (49 * c + c * c, 0, 2 * c),
    "dw3_bn": lambda c, h, w: (9 * c, 0, 2 * c),
    "dw9_bn": lambda c, h, w: (81 * c, 0, 2 * c),
}


@pytest.mark.parametrize("name", NAMES)
def test_parameter_counts(name):
    assert kind_counts(block(name, 64, (3, 4))) == COUNTS[name](64, 3, 4)


# (C, side of the map, how often), and what a network gains (counting.md: computed - base)
RESNET50 = [(256, 56, 3), (512, 28, 4), (1024, 14, 6), (2048, 7, 3)]
RESNEXT101 = [(256, 56, 3), (512, 28, 4), (1024, 14, 23), (2048, 7, 3)]
RESNET164 = [(64, 32, 18), (128, 16, 18), (256, 8, 18)]
GAINS = [
    ("ab", RESNET50, False, 25_572_136 - 25_557_032),
    ("ab_plus", RESNET50, False, 45_676_584 - 25_557_032),
    ("se", RESNET50, True, 28_088_024 - 25_557_032),
    ("cbam", RESNET50, True, 28_089_624 - 25_557_032),
    ("se", RESNEXT101, True, 48_955_416 - 44_177_704),
    ("ge_theta_plus", RESNEXT101, True, 57_919_256 - 44_177_704),
    ("ge_theta_plus_ab", RESNEXT101, True, 53_239_080 - 44_177_704),
]
# Table 15: the printed base and, with each block, the printed total, in thousands
BASE_15, TABLE_15 = 1734, [("ab", 1758), ("ab_g16", 1847), ("ab_g8", 1944), ("ab_g4", 2137)]
TABLE_15 += [("ab_g2", 2524), ("ab_plus", 3298)]


def added(name, sites, norms):
    with torch.device("meta"):
        one = [(times, kind_counts(block(name, c, (s, s)))) for c, s, times in sites]
    return sum(times * (sum(counts) if norms else counts[0]) for times, counts in one)


@pytest.mark.parametrize(("name", "sites", "norms", "gain"), GAINS)
def test_networks_gain_what_the_paper_counts(name, sites, norms, gain):
    assert added(name, sites, norms) == gain


@pytest.mark.parametrize(("name", "thousands"), TABLE_15)
def test_groups_of_table_15(name, thousands):
    assert round(BASE_15 + added(name, RESNET164, True) / 1000) == thousands


# --- shapes, layouts, batches ---------------------------------------------------------------------


@pytest.mark.parametrize("shape", [(2, 32, 5, 7), (2, 32, 7, 5), (3, 16, 1, 1), (2, 64, 1, 9)])
@pytest.mark.parametrize("text", EVERY)
def test_odd_shapes_give_weights_between_0_and_1(text, shape):
    x = torch.rand(shape) + 0.5
    y = randomise(block(text, shape[1], shape[2:], torch.float32))(x)
    assert y.shape == x.shape
    assert y.dtype == x.dtype
    assert ((y >= 0) & (y <= x)).all()
    assert (y / x).std() > 0.001  # and not all the same


@pytest.mark.parametrize("training", [True, False], ids=["training", "eval"])
@pytest.mark.parametrize("text", EVERY)
def test_channels_last_stays_and_changes_no_value(text, training):
    m = randomise(block(text, dtype=torch.float32)).train(training)
    x = torch.randn(3, 32, 5, 7)
    expected = copy.deepcopy(m)(x)
    assert expected.is_contiguous()
    y = m(x.contiguous(memory_format=torch.channels_last))
    assert y.is_contiguous(memory_format=torch.channels_last)
    torch.testing.assert_close(y, expected, rtol=1e-5, atol=1e-5)  # rounding differs by CPU
    y = m.to(memory_format=torch.channels_last).eval()(x)
    torch.testing.assert_close(
        y, copy.deepcopy(m)(x.to(memory_format=torch.channels_last)), rtol=1e-5, atol=1e-5
    )


@pytest.mark.parametrize("batch", [1, 2, 3])
@pytest.mark.parametrize("text", EVERY)
def test_samples_do_not_meet_in_eval(text, batch):
    m = randomise(block(text)).eval()
    x = torch.randn(3, 32, 5, 7, dtype=torch.float64)
    torch.testing.assert_close(m(x[:batch]), m(x)[:batch], rtol=1e-10, atol=1e-12)


def refusal(module, x):
    try:
        module(x)
    except ValueError as e:
        return str(e)
    return None


@pytest.mark.parametrize("size", [(5, 7), (1, 1), (4, 4)], ids=str)
@pytest.mark.parametrize("text", EVERY)
def test_a_batch_of_one_in_training(text, size):
    m = block(text, size=size).train()
    seen = MAP_NORM[text](*size) if text in MAP_NORM else (2, 2)
    if text not in VECTOR_NORM and math.prod(seen) > 1:
        assert m(torch.randn(1, 32, *size, dtype=torch.float64)).isfinite().all()
        return
    x = torch.randn(1, 32, *size, dtype=torch.float64)
    refused = []
    while error := refusal(m, x):
        assert "batch of 1" in error
        assert "Expected more than 1 value per channel" not in error
        assert "eval mode" in error
        named = re.search(r"the gate (\S+)", error)[1]
        assert named not in refused
        refused.append(named)
        norm = m.get_submodule(named)
        assert isinstance(norm, BATCH_NORM)
        assert norm.num_batches_tracked == 0
        assert (norm.running_mean == 0).all()
        norm.eval()  # the remedy that it names
    assert refused
    assert m(x).isfinite().all()


@pytest.mark.parametrize("batch", [2, 3])
@pytest.mark.parametrize("text", EVERY)
def test_small_batches_train(text, batch):
    x = torch.randn(batch, 32, 1, 1, dtype=torch.float64, requires_grad=True)
    y = block(text, size=(1, 1)).train()(x)
    y.square().sum().backward()
    assert y.isfinite().all()
    assert x.grad.isfinite().all()


# a batch norm that follows removes the bias of the gather; Gather-Excite has one all the same
DEAD = {"ge_theta_plus_ab": {"0.gather.bias"}}


@pytest.mark.parametrize("text", EVERY)
def test_every_parameter_gets_a_gradient(text):
    m = block(text).train()
    with torch.no_grad():
        for name, value in m.named_parameters():
            if name.endswith("reduce.bias"):
                value.fill_(1)  # a hidden layer of two units: keep its ReLU open
    x = torch.randn(4, 32, 5, 7, dtype=torch.float64, requires_grad=True)
    (m(x) * torch.randn_like(x)).sum().backward()
    dead = {n for n, p in m.named_parameters() if p.grad is None or p.grad.abs().max() < 1e-10}
    assert dead == DEAD.get(text, set())
    assert x.grad.abs().max() > 0


# --- precision ------------------------------------------------------------------------------------


@pytest.fixture(params=[torch.float16, torch.bfloat16], ids=["float16", "bfloat16"])
def dtype(request):
    if request.param is torch.bfloat16 and not ops.bf16_works("cpu"):
        pytest.skip("bfloat16 does not run on this CPU (accuracy_booster.ops.bf16_works)")
    return request.param


@pytest.mark.parametrize("given", ["full", "half"])
@pytest.mark.parametrize("training", [True, False], ids=["training", "eval"])
@pytest.mark.parametrize("text", EVERY)
def test_autocast_keeps_the_dtype_and_the_gate(text, dtype, training, given):
    m = block(text, dtype=torch.float32).train(training)
    x = torch.randn(4, 32, 5, 7)
    x = x.to(dtype) if given == "half" else x
    full = x.float().requires_grad_()
    expected = copy.deepcopy(m)(full)
    x.requires_grad_()
    with torch.autocast("cpu", dtype=dtype):
        y = m(x)
    assert y.dtype == x.dtype
    eps = torch.finfo(dtype).eps
    distance = ((y.float() - expected).abs() / x.detach().float().abs().clamp(min=1e-3)).max()
    assert distance < 16 * eps
    y.float().square().sum().backward()
    expected.square().sum().backward()
    # as a whole: one value may take the other side of a ReLU or a maximum
    assert F.cosine_similarity(x.grad.float().flatten(), full.grad.flatten(), dim=0) > 0.99
    assert all(p.grad.dtype == torch.float32 and p.grad.isfinite().all() for p in m.parameters())


@pytest.mark.parametrize("text", EVERY)
def test_half_precision_modules(text, dtype):
    m = block(text, dtype=torch.float32)
    x = torch.randn(4, 32, 5, 7).to(dtype)
    expected = copy.deepcopy(m).eval()(x.float())
    m = m.to(dtype)
    y = m.eval()(x)
    assert y.dtype == dtype
    assert ((y.float() - expected).abs() / x.float().abs().clamp(min=1e-3)).max() < 0.05
    y = m.train()(x.requires_grad_())
    assert y.dtype == dtype
    y.float().sum().backward()
    assert x.grad.isfinite().all()
    assert all(p.grad.isfinite().all() for p in m.parameters())


@pytest.mark.parametrize("text", ["ab", "gmp | bn | sigmoid", "cbam", "ge_theta", "design_h_bn"])
def test_descriptors_leave_16_bits(text):
    """[N, C] values are few: they and their batch statistics are float32 under autocast."""
    m = block(text, dtype=torch.float32)
    x = torch.randn(3, 32, 5, 7)
    for given in (x, x.half()):
        with torch.autocast("cpu", dtype=torch.float16):
            descriptors = m[0].describe(given)
            weights = m[0].weigh(descriptors)
        assert {d.shape for d in descriptors} == {(3, 32)}
        assert {d.dtype for d in descriptors} == {torch.float32}
        assert weights.dtype == torch.float32


@pytest.mark.parametrize("text", ["ab", "ab_plus", "ab_g4", "design_f"])
def test_the_descriptor_of_16_bit_maps_is_not_rounded(text):
    """Mean 4, spread 0.01: one unit of float16 at 4 is 0.004, half of the spread."""
    m = block(text, 32, (8, 8), torch.float32).train()
    offsets = 4 + 0.01 * torch.randn(16, 32, 1, 1)
    x = (offsets + 0.05 * torch.randn(16, 32, 8, 8)).half()  # from here on, x is exact

    def gate(module, descriptor):
        return module[0].weigh([descriptor])

    exact_mean = x.double().mean((2, 3))
    exact = gate(copy.deepcopy(m).double(), exact_mean)
    rounded = gate(copy.deepcopy(m).double(), exact_mean.half().double())
    harm = (rounded - exact).abs().max()
    assert harm > 0.02  # else this test shows nothing
    ours = gate(copy.deepcopy(m), m[0].describe(x)[0])
    assert (ours - exact).abs().max() < harm / 20
    for autocast in (False, True):
        with torch.autocast("cpu", dtype=torch.float16, enabled=autocast):
            y = copy.deepcopy(m)(x)
        assert y.dtype == torch.float16
        p = (y.double() / x.double()).mean((2, 3))  # y is rounded, the mean of y / x hardly
        assert (p - exact).abs().max() < harm / 20


# --- copies, saving, compilers --------------------------------------------------------------------


@pytest.mark.parametrize("text", EVERY)
def test_copies_and_state_dict(text):
    m = randomise(block(text, dtype=torch.float32)).eval()
    x = torch.randn(2, 32, 5, 7)
    expected = m(x)
    fresh = ab.Recalibrate(32, str(m.recipe), spatial_size=m.spatial_size).eval()
    fresh.load_state_dict(m.state_dict())
    for other in (copy.deepcopy(m), pickle.loads(pickle.dumps(m)), fresh):
        assert other.recipe == m.recipe
        assert torch.equal(other(x), expected)
        assert list(other.state_dict()) == list(m.state_dict())
        with torch.no_grad():
            for value in other.parameters():
                value.add_(1)
    assert torch.equal(m(x), expected)  # they share nothing


@pytest.mark.parametrize("text", EVERY)
def test_compiles_as_one_graph(text):
    torch._dynamo.reset()
    m = randomise(block(text, dtype=torch.float32)).train()
    plain = copy.deepcopy(m)
    x = torch.randn(3, 32, 5, 7, requires_grad=True)
    x_plain = x.detach().clone().requires_grad_()
    compiled = torch.compile(m, backend="aot_eager", fullgraph=True)
    y, expected = compiled(x), plain(x_plain)
    torch.testing.assert_close(y, expected)
    y.square().sum().backward()
    expected.square().sum().backward()
    torch.testing.assert_close(x.grad, x_plain.grad, rtol=1e-4, atol=1e-5)
    for mine, other in zip(m.parameters(), plain.parameters(), strict=True):
        torch.testing.assert_close(mine.grad, other.grad, rtol=1e-3, atol=1e-4)
    torch.testing.assert_close(m.state_dict(), plain.state_dict())


@pytest.mark.parametrize("text", ["ab", "ab_plus", "cbam", "design_n"])
def test_compiles_as_one_graph_under_autocast(text):
    torch._dynamo.reset()
    m = block(text, dtype=torch.float32).eval()
    x = torch.randn(3, 32, 5, 7)
    compiled = torch.compile(m, backend="aot_eager", fullgraph=True)
    with torch.autocast("cpu", dtype=torch.float16):
        torch.testing.assert_close(compiled(x), m(x))


@pytest.mark.parametrize("text", EVERY)
def test_exports_in_eval_with_any_batch(text):
    m = randomise(block(text, dtype=torch.float32)).eval()
    batch = torch.export.Dim("batch", min=1)
    program = torch.export.export(
        m, (torch.randn(3, 32, 5, 7),), dynamic_shapes=({0: batch},)
    ).module()
    for n in (1, 3, 4):
        x = torch.randn(n, 32, 5, 7)
        torch.testing.assert_close(program(x), m(x))


# --- arguments of the recipe ----------------------------------------------------------------------


@pytest.mark.parametrize("scale", [2, 0.5])
@pytest.mark.parametrize("text", ["ab", "eca", "cbam", "gather(2) | sigmoid", "design_j"])
def test_scale_multiplies_the_gate(text, scale):
    text = str(recipe(text))
    x = torch.randn(3, 32, 5, 7)
    last = text.removesuffix("sigmoid") + f"sigmoid(scale={scale})"
    one, scaled = block(text, dtype=torch.float32), block(last, dtype=torch.float32)
    scaled.load_state_dict(one.state_dict())
    assert torch.equal(scaled(x), scale * one(x))  # a power of two: exact


@pytest.mark.parametrize(
    "text",
    [
        "gap | dense(groups=C) | bn(init=zeros) | sigmoid(scale=2)",
        "gap | dense(init=zeros) | sigmoid(scale=2)",
        "gap + gmp | bottleneck(init=zeros) | sigmoid(scale=2) ; "
        "channel_pool | conv2d(7) | bn(init=zeros) | sigmoid(scale=2)",
        "dwconv(7, init=zeros) | sigmoid(scale=2)",
        "gather(global, learned=true, init=zeros) | sigmoid(scale=2)",
    ],
)
def test_a_factor_that_starts_at_zero_is_the_identity(text):
    x = torch.randn(3, 32, 5, 7)
    m = block(text, dtype=torch.float32)
    assert torch.equal(m(x), x)
    assert torch.equal(m.eval()(x), x)


# (recipe with {} for the init, the inputs of one output of its weights)
WEIGHTED = [
    ("gap | dense(init={}) | sigmoid", 64),
    ("gap | dense(groups=C, init={}) | sigmoid", 1),
    ("gap | dense(groups=4, init={}) | sigmoid", 16),
    ("gap | conv1d(33, init={}) | sigmoid", 33),
    ("conv(3, init={}) | sigmoid", 9 * 64),
    ("dwconv(7, init={}) | sigmoid", 49),
    ("conv(global, init={}) | sigmoid", 5 * 7 * 64),
    ("dwconv(global, init={}) | sigmoid", 5 * 7),
    ("gather(global, learned=true, init={}) | sigmoid", 5 * 7),
    ("channel_pool | conv2d(7, init={}) | sigmoid", 98),
]


@pytest.mark.parametrize(("text", "fan_in"), WEIGHTED)
def test_init_of_the_weights(text, fan_in):
    def first(init):
        return dict(block(text.format(init), 64).named_parameters())

    for init, constant in (("zeros", 0.0), ("ones", 1.0)):
        for name, value in first(init).items():
            assert (value == (0.0 if name.endswith("bias") else constant)).all()
    bound = 1 / math.sqrt(fan_in)  # PyTorch's own: U(-bound, bound)
    for value in first("default").values():
        assert value.abs().max() <= bound
        if value.numel() > 1:
            assert value.abs().max() > (0.6 if value.numel() < 30 else 0.9) * bound
            assert value.std().item() == pytest.approx(bound / math.sqrt(3), rel=0.3)
    for name, value in first("kaiming_normal").items():
        if name.endswith("bias"):
            assert (value == 0).all()
        else:
            assert value.std().item() == pytest.approx(math.sqrt(2 / fan_in), rel=0.35)
            assert value.numel() < 60 or value.abs().max() > 1.8 * math.sqrt(2 / fan_in)


@pytest.mark.parametrize("groups", [1, 4, 32])
def test_default_init_is_pytorchs_own(groups):
    torch.manual_seed(7)
    theirs = nn.Conv2d(32, 32, 1, groups=groups)
    torch.manual_seed(7)
    ours = ab.Recalibrate(32, f"gap | dense(groups={groups}) | sigmoid")
    for mine, other in zip(ours.parameters(), theirs.parameters(), strict=True):
        assert torch.equal(mine, other.reshape(mine.shape))


def test_init_and_arguments_of_bn():
    ones, zeros = (block(f"gap | bn(init={i}) | sigmoid")[0].bn for i in ("ones", "zeros"))
    assert (ones.weight == 1).all()
    assert (zeros.weight == 0).all()
    for norm in (ones, zeros):
        assert (norm.bias == 0).all()
        assert (norm.running_mean == 0).all()
        assert (norm.running_var == 1).all()
    d = torch.randn(4, 32, dtype=torch.float64) * 0.1
    norm = block("gap | bn(eps=0.5, momentum=0.3) | sigmoid")[0].bn
    expected = (d - d.mean(0)) / (d.var(0, correction=0) + 0.5).sqrt()
    torch.testing.assert_close(norm(d), expected)
    torch.testing.assert_close(norm.running_mean, 0.3 * d.mean(0))
    torch.testing.assert_close(norm.running_var, 0.7 + 0.3 * d.var(0, correction=1))


@pytest.mark.parametrize(
    ("text", "biases"),
    [
        ("gap | dense | bn | sigmoid", False),
        ("gap | dense(groups=C) | bn | sigmoid", False),
        ("gap | dense | dense | bn | sigmoid", False),
        ("gap | conv1d(3) | bn | sigmoid", False),
        ("gap + gmp | dense | bn | sigmoid", False),
        ("dwconv(7) | gap | dense(groups=C) | bn | sigmoid", False),
        ("conv(3) | bn | sigmoid", False),
        ("gap | dense(bias=true) | bn | sigmoid", True),
        ("gap | dense | sigmoid", True),
        ("gap | dense(bias=false) | sigmoid", False),
        ("gap | bottleneck(16) | bn | sigmoid", True),
        ("gap | bottleneck(16, bias=false) | bn | sigmoid", False),
        ("gap | dense | bottleneck(16, bias=false) | bn | sigmoid", True),
        ("dwconv(3) | gap | bottleneck(16, bias=false) | bn | sigmoid", True),
        ("dwconv(7) | gmp | sigmoid", True),
        ("gap | bn | dense | sigmoid", True),
    ],
)
def test_no_bias_where_a_bn_removes_it(text, biases):
    assert bool(kind_counts(block(text))[1]) == biases


@pytest.mark.parametrize("name", NAMES)
def test_reads_only_mean_is_true_of_the_gate(name):
    """The fast path's claim: such a gate sees nothing of a map but each channel's mean."""
    m = randomise(block(name)).eval()
    x = torch.randn(2, 32, 5, 7, dtype=torch.float64)
    flat = x.mean((2, 3), keepdim=True).expand_as(x)
    weights = [m(x)[..., 2, 3] / x[..., 2, 3], m(flat)[..., 2, 3] / flat[..., 2, 3]]
    assert torch.allclose(*weights) == all(gate.reads_only_mean for gate in m.recipe.gates)


# --- bad input ------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", NAMES)
def test_spatial_size_is_asked_for_where_it_is_needed(name):
    assert recipe(name).needs_spatial_size == (name in SIZED)
    if name not in SIZED:
        ab.Recalibrate(32, name)
        return
    with pytest.raises(ValueError, match="spatial_size"):
        ab.Recalibrate(32, name)


@pytest.mark.parametrize("size", [(7, 5), (5, 8), (1, 1), (10, 14)])
@pytest.mark.parametrize("name", SIZED)
def test_a_map_of_another_size(name, size):
    m = block(name, size=(5, 7)).eval()
    with pytest.raises(ValueError) as caught:
        m(torch.randn(2, 32, *size, dtype=torch.float64))
    assert "5x7" in str(caught.value)
    assert f"{size[0]}x{size[1]}" in str(caught.value)


def test_spatial_size_may_be_one_number():
    assert [p.shape for p in block("design_g", size=6).parameters()] == [
        p.shape for p in block("design_g", size=(6, 6)).parameters()
    ]


@pytest.mark.parametrize("size", [0, (0, 5), (5, -1)])
def test_bad_spatial_size(size):
    with pytest.raises(ValueError, match="spatial_size"):
        ab.Recalibrate(32, "design_g", spatial_size=size)


@pytest.mark.parametrize(("channels", "groups"), [(64, 48), (64, 3), (30, 4), (7, 2), (64, 100)])
@pytest.mark.parametrize("text", ["ab_g{}", "gap | dense(groups={}) | sigmoid"])
def test_groups_that_do_not_divide(text, channels, groups):
    with pytest.raises(ValueError) as caught:
        ab.Recalibrate(channels, text.format(groups))
    message = str(caught.value)
    assert f"groups={groups}" in message
    assert f"channels={channels}" in message
    tried = {int(number) for number in re.findall(r"\d+", message.split("try", 1)[1])}
    divisors = [d for d in range(1, channels + 1) if channels % d == 0]
    nearest = {max(d for d in divisors if d < groups)}
    nearest |= {min(d for d in divisors if d > groups)} if groups < channels else set()
    assert tried == nearest


@pytest.mark.parametrize("name", NAMES)
def test_wrong_input(name):
    m = block(name).eval()
    for shape in [
        (2, 31, 5, 7),
        (2, 64, 5, 7),
        (2, 1, 5, 7),
        (2, 32),
        (32, 5, 7),
        (2, 32, 5, 7, 1),
    ]:
        with pytest.raises(ValueError, match="32 channels"):
            m(torch.randn(shape, dtype=torch.float64))


@pytest.mark.parametrize("channels", [0, -1, 1.5, "32", None])
def test_bad_channels(channels):
    with pytest.raises(ValueError, match="channels"):
        ab.Recalibrate(channels, "ab")

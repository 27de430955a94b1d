"""The table of blocks, against other libraries, formulas and the paper's counts."""

from __future__ import annotations

import contextlib
from collections.abc import Callable

import pytest
import timm.layers
import torch
import torch.nn.functional as F
from pytorchcv.models.cbamresnet import CbamBlock
from pytorchcv.models.common.att import SEBlock
from support.blocks import (
    EVERY,
    NAMES,
    block,
    kind_counts,
    norm,
    randomise,
)
from timm.layers.cbam import CbamModule
from torch import nn

import accuracy_booster as ab
from accuracy_booster.blocks import (
    TABLE,
    list_recipes,
    recipe,
)
from accuracy_booster.blocks.named import name_and_start


def test_the_table_has_every_block_of_the_design():
    ge = [f"ge_theta{end}" for end in ("_minus", "", "_plus", "_plus_ab")]
    designs = [f"design_{letter}" for letter in "efghijklmno"]
    named = ["ab", "ab_plus", "ab_nobn", "ab_plus_nobn", "se", "eca", "cbam", "dw3_bn", "dw9_bn"]
    named += ge + designs
    assert set(named) <= set(TABLE)
    assert len({recipe(name) for name in TABLE}) == len(TABLE)  # no two rows are the same block


@pytest.mark.parametrize("name", NAMES)
def test_named_recipe_prints_and_parses_back(name):
    parsed = recipe(name)
    text = str(parsed)
    again = recipe(text)
    assert again == parsed
    assert hash(again) == hash(parsed)
    assert str(again) == text


@pytest.mark.parametrize("name", TABLE)
def test_table_text_prints_back_verbatim(name):
    text, source = TABLE[name]
    assert str(recipe(name)) == text
    assert str(recipe(text)) == text
    assert source


def test_a_recipe_is_returned_as_it_is():
    parsed = recipe("ab")
    assert recipe(parsed) is parsed
    assert ab.recipe is recipe


@pytest.mark.parametrize("name", NAMES)
def test_the_name_of_a_recipe_and_how_it_starts(name):
    found, start = name_and_start(recipe(name))
    assert recipe(found) == recipe(name)
    assert start == "paper"
    with contextlib.suppress(ValueError):  # a block without parameters
        assert name_and_start(recipe(name).as_identity()) == (found, "identity")


def test_a_recipe_without_a_name_is_its_text():
    assert name_and_start(recipe("gmp | dense | sigmoid")) == ("gmp | dense | sigmoid", "")
    assert name_and_start(recipe("ab").as_identity()) == ("ab", "identity")


def test_list_recipes_filters():
    assert list_recipes() == list(TABLE)
    assert set(list_recipes("ge_*")) == {name for name in TABLE if name.startswith("ge_")}
    assert list_recipes("nothing*") == []


@pytest.mark.parametrize(
    ("name", "nearest"),
    [
        ("ab_pluss", "ab_plus"),
        ("abplus", "ab_plus"),
        ("cbm", "cbam"),
        ("design_z", "design_"),
        ("ge_theta_pluss", "ge_theta_plus"),
        ("dw5_bn", "dw3_bn"),
        ("ab_g0", "ab_g2"),
        ("ab_gx", "ab_g2"),
    ],
)
def test_unknown_block_lists_the_nearest(name, nearest):
    with pytest.raises(ValueError, match=f"unknown block '{name}'") as caught:
        recipe(name)
    assert nearest in str(caught.value).split(";", 1)[1]
    with pytest.raises(ValueError, match=f"unknown block '{name}'"):
        ab.Recalibrate(8, name)


def test_a_name_near_nothing_lists_all():
    with pytest.raises(ValueError, match="unknown block 'zzzzzz'") as caught:
        recipe("zzzzzz")
    assert all(name in str(caught.value) for name in TABLE)


@pytest.mark.parametrize("value", [None, 3, b"ab", ["gap"], {"gates": []}, object()])
def test_a_recipe_of_another_type_is_a_value_error(value):
    with pytest.raises(ValueError, match="must be a block's name"):
        recipe(value)


pytestmark = pytest.mark.filterwarnings("error")
SHAPES = [(3, 32, 5, 7), (2, 32, 1, 1), (4, 48, 8, 6)]
OTHER_SHAPES = [(3, 16, 1, 1), (2, 40, 5, 7), (3, 21, 1, 9), (4, 50, 8, 6)]


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


timm = pytest.importorskip("timm")
Make = Callable[[int, int, int], nn.Module]


class Authors(nn.Module):
    """x * sigmoid(.) of one value per channel."""

    def forward(self, x):
        return x * torch.sigmoid(self.weigh(x)).reshape(*x.shape[:2], 1, 1)


class Se(Authors):
    """hujie-frank/SENet, SE-ResNet-50.prototxt: global average, two biased 1x1 convolutions."""

    def __init__(self, c, h, w):
        super().__init__()
        self.down, self.up = nn.Conv2d(c, c // 16, 1), nn.Conv2d(c // 16, c, 1)

    def weigh(self, x):
        return self.up(torch.relu(self.down(F.avg_pool2d(x, x.shape[2:]))))


class Eca(Authors):
    """BangguWu/ECANet, eca_module.py, with the kernel that the paper's formula gives."""

    def __init__(self, c, h, w):
        super().__init__()
        self.conv = nn.Conv1d(1, 1, 3, padding=1, bias=False)

    def weigh(self, x):
        means = F.adaptive_avg_pool2d(x, 1)  # [N, C, 1, 1] -> [N, 1, C]
        return self.conv(means.squeeze(-1).transpose(-1, -2))


class Theta(Authors):
    """hujie-frank/GENet, RN50-GEP.prototxt: a depthwise convolution over the whole map, a norm."""

    def __init__(self, c, h, w):
        super().__init__()
        self.gather = nn.Conv2d(c, c, (h, w), groups=c, bias=False)
        self.norm = nn.BatchNorm2d(c, momentum=0.05)  # Caffe's 0.95 keeps 0.95 of the old value

    def weigh(self, x):
        return self.norm(self.gather(x))


class ThetaPlus(Theta):
    """RN50-GEPP.prototxt: the same, a ReLU, and SE's two convolutions."""

    def __init__(self, c, h, w):
        super().__init__(c, h, w)
        self.se = Se(c, h, w)

    def weigh(self, x):
        return self.se.weigh(torch.relu(super().weigh(x)))


class Cbam(nn.Module):
    """Jongchan/attention-module, MODELS/cbam.py: channels, then space from (maximum, mean)."""

    def __init__(self, c, h, w):
        super().__init__()
        self.mlp = nn.Sequential(nn.Linear(c, c // 16), nn.ReLU(), nn.Linear(c // 16, c))
        self.conv = nn.Conv2d(2, 1, 7, padding=3, bias=False)
        self.norm = nn.BatchNorm2d(1, eps=1e-5, momentum=0.01)

    def forward(self, x):
        logits = self.mlp(x.mean((2, 3))) + self.mlp(x.flatten(2).max(2)[0])
        x = x * torch.sigmoid(logits)[:, :, None, None]
        planes = torch.stack((x.max(1)[0], x.mean(1)), 1)
        return x * torch.sigmoid(self.norm(self.conv(planes)))


def cv_se(c: int, h: int, w: int) -> nn.Module:
    return pytest.importorskip("pytorchcv.models.common.att").SEBlock(c, 16, use_conv=False)


def cv_cbam(c: int, h: int, w: int) -> nn.Module:
    theirs = pytest.importorskip("pytorchcv.models.cbamresnet").CbamBlock(c, 16)
    theirs.sp_gate.conv.bn.momentum = 0.01  # 0.1 there, 0.01 in the authors' code
    return theirs


def tv_se(c: int, h: int, w: int) -> nn.Module:
    return pytest.importorskip("torchvision.ops").SqueezeExcitation(c, c // 16)


def timm_se(c: int, h: int, w: int) -> nn.Module:
    return timm.layers.SEModule(c, rd_channels=c // 16)


def timm_ge(extent: int, mlp: bool) -> Make:
    def make(c: int, h: int, w: int) -> nn.Module:
        theirs = timm.layers.GatherExcite(c, extent=extent, use_mlp=False)
        if mlp:  # use_mlp=True raises a TypeError in timm 1.0.31
            theirs.mlp = timm.layers.ConvMlp(c, c // 16)
        return theirs

    return make


def timm_cbam(c: int, h: int, w: int) -> nn.Module:
    from timm.layers.cbam import CbamModule

    return CbamModule(c, rd_channels=c // 16)


TIMM_CBAM = (
    "gap + gmp | bottleneck(16, bias=false) | sigmoid ; "
    "channel_pool(order=mean_max) | conv2d(7) | bn | sigmoid"
)
PUBLISHED: list[tuple[str, str, Make]] = [
    ("se", "authors", Se),
    ("se", "pytorchcv", cv_se),
    ("se", "torchvision", tv_se),
    ("se", "timm", timm_se),
    ("eca", "authors", Eca),
    ("eca", "timm", lambda c, h, w: timm.layers.EcaModule(c)),
    ("cbam", "authors", Cbam),
    ("cbam", "pytorchcv", cv_cbam),
    (TIMM_CBAM, "timm", timm_cbam),
    ("ge_theta_minus", "timm", timm_ge(0, mlp=False)),
    ("ge_theta_bn", "authors", Theta),
    ("ge_theta_plus_bn", "authors", ThetaPlus),
    ("gather(2) | sigmoid", "timm", timm_ge(2, mlp=False)),
    ("gather(global) | bottleneck(16) | sigmoid", "timm", timm_ge(0, mlp=True)),
    ("gather(2) | bottleneck(16) | sigmoid", "timm", timm_ge(2, mlp=True)),
    ("gather(8) | bottleneck(16) | sigmoid", "timm", timm_ge(8, mlp=True)),
]


def take_weights(ours: nn.Module, theirs: nn.Module) -> None:
    """Give theirs weights and statistics far from the start, and ours the same, in their order."""
    mine = [v for v in ours.state_dict().values() if v.is_floating_point()]
    state = [v for v in theirs.state_dict().values() if v.is_floating_point()]
    assert [v.numel() for v in mine] == [v.numel() for v in state]
    for value, other in zip(mine, state, strict=True):
        nn.init.uniform_(other, 0.2, 1.2)
        if other.ndim > 1:
            nn.init.normal_(other)
        value.copy_(other.reshape(value.shape))


@torch.no_grad()
def difference(text: str, make: Make, shape: tuple[int, ...], training: bool) -> float:
    """The largest in outputs and running statistics; in training mode after three steps."""
    _, c, h, w = shape
    ours = ab.Recalibrate(c, text, spatial_size=(h, w)).double().train(training)
    theirs = make(c, h, w).double().train(training)
    take_weights(ours, theirs)
    largest = 0.0
    for step in range(3 if training else 1):
        x = 3 * torch.randn(shape, dtype=torch.float64) + step
        y = theirs(x)
        assert (y - x).abs().max() > 1e-3
        largest = max(largest, (ours(x) - y).abs().max().item())
    for mine, other in zip(ours.buffers(), theirs.buffers(), strict=True):
        largest = max(largest, (mine - other).abs().max().item())
    return largest


@pytest.mark.parametrize("training", [True, False], ids=["training", "eval"])
@pytest.mark.parametrize("shape", OTHER_SHAPES, ids=lambda s: "x".join(map(str, s)))
@pytest.mark.parametrize(("text", "source", "make"), PUBLISHED)
def test_a_block_computes_what_the_published_one_computes(text, source, make, shape, training):
    assert difference(text, make, shape, training) < 1e-12


@torch.no_grad()
def test_se_in_three_dimensions():
    """monai's ChannelSELayer on volumes: with r = 16 the hidden width is C // 16."""
    blocks = pytest.importorskip("monai.networks.blocks")
    theirs = blocks.ChannelSELayer(3, 40, r=16).double()
    ours = ab.Recalibrate(40, "se", spatial_dims=3).double()
    take_weights(ours, theirs)
    x = torch.randn(2, 40, 3, 5, 4, dtype=torch.float64)
    assert (ours(x) - theirs(x)).abs().max() < 1e-12


def test_what_differs_by_choice():
    """Where others deviate from the authors: timm's widths and biases; the smallest ECA kernel."""
    rounded = {d: timm.layers.SEModule(40, rd_divisor=d).fc1.out_channels for d in (1, 8)}
    assert rounded == {1: 3, 8: 8}  # of 2.5, where SENet's own have C // 16 = 2
    hidden = {c: timm.layers.SEModule(c).fc1.out_channels for c in (64, 200, 512)}
    assert hidden == {64: 8, 200: 16, 512: 32}  # a multiple of 8
    ours = {c: ab.Recalibrate(c, "se")[0].bottleneck.reduce.weight.shape[0] for c in hidden}
    assert ours == {64: 4, 200: 12, 512: 32}
    assert timm_cbam(64, 1, 1).channel.fc1.bias is None
    assert ab.Recalibrate(64, "cbam")[0].bottleneck.reduce.bias is not None
    kernels = {c: ab.Recalibrate(c, "eca")[0].conv1d.weight.numel() for c in (4, 8, 64, 512)}
    assert kernels == {4: 3, 8: 3, 64: 3, 512: 5}  # the paper's formula has 1 for 4 channels


def test_cbams_norm_is_its_authors():
    block = ab.Recalibrate(32, "cbam")
    assert (block[1].bn.eps, block[1].bn.momentum) == (1e-5, 0.01)
    assert block[1].conv2d.bias is None
    assert block[0].bottleneck.reduce.bias is not None


@torch.no_grad()
@pytest.mark.parametrize("order", ["max_mean", "mean_max"])
def test_the_planes_stand_in_the_order_that_the_recipe_names(order):
    x = torch.randn(2, 6, 3, 5)
    planes = {"max": x.max(1)[0], "mean": x.mean(1)}
    expected = torch.stack([planes[word] for word in order.split("_")], 1)
    block = ab.Recalibrate(6, f"channel_pool(order={order}) | conv2d(3) | sigmoid")
    torch.testing.assert_close(block[0].channel_pool(x), expected)
    if order == "max_mean":  # what it is where nothing is said
        plain = ab.Recalibrate(6, "channel_pool | conv2d(3) | sigmoid")
        torch.testing.assert_close(plain[0].channel_pool(x), expected)
        assert plain.recipe == block.recipe


@torch.no_grad()
def test_a_relu_stands_between_layers():
    """The layer before it keeps its bias: the norm after it does not remove what the ReLU bends."""
    block = ab.Recalibrate(8, "gap | dense | relu | bn | sigmoid").double().eval()
    gate = block[0]
    assert gate.dense.bias is not None
    x = torch.randn(3, 8, 4, 5, dtype=torch.float64)
    hidden = F.relu(F.linear(x.mean((2, 3)), gate.dense.weight, gate.dense.bias))
    expected = x * (hidden / (1 + 1e-5) ** 0.5).sigmoid()[:, :, None, None]
    torch.testing.assert_close(block(x), expected)


def randomise_norms(model: nn.Module) -> None:
    """Statistics and factors as a trained network has them, not zeros and ones."""
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.weight, 0.5, 1.0)
            nn.init.normal_(module.bias, std=0.3)
            nn.init.normal_(module.running_mean, std=0.3)
            nn.init.uniform_(module.running_var, 0.5, 1.5)


@torch.no_grad()
def logits(
    ours: nn.Module, theirs: nn.Module, rename: Callable[[str], str], size: tuple[int, ...]
) -> tuple[torch.Tensor, torch.Tensor]:
    """Both networks' logits; ours has the published one's weights, each under its new name."""
    ours, theirs = ours.double().eval(), theirs.double().eval()
    randomise_norms(theirs)
    shapes = {name: value.shape for name, value in ours.state_dict().items()}
    state = {rename(name): value for name, value in theirs.state_dict().items()}
    assert set(state) == set(shapes)
    ours.load_state_dict({name: value.reshape(shapes[name]) for name, value in state.items()})
    x = torch.randn(2, *size, dtype=torch.float64)
    return ours(x), theirs(x)


def replaced(name: str, *pairs: tuple[str, str]) -> str:
    for old, new in pairs:
        name = name.replace(old, new)
    return name


def cbam_resnet(name: str) -> str:
    """pytorchcv's cbam_resnet18 -> our resnet18 with "cbam" after each bn2."""
    stage, _, rest = name.removeprefix("features.").partition(".")
    if stage in ("init_block", "output"):
        return replaced(
            name.removeprefix("features."),
            *(("init_block.conv.conv.", "conv1."), ("init_block.conv.bn.", "bn1.")),
            ("output.", "fc."),
        )
    unit, _, rest = rest.partition(".")
    rest = replaced(
        rest,
        *(("body.conv1.conv.", "conv1."), ("body.conv1.bn.", "bn1.")),
        *(("body.conv2.conv.", "conv2."), ("body.conv2.bn.", "bn2.")),
        *(("identity_conv.conv.", "downsample.0."), ("identity_conv.bn.", "downsample.1.")),
        ("cbam.ch_gate.mlp.fc1.", "bn2.recalibrate.0.bottleneck.reduce."),
        ("cbam.ch_gate.mlp.fc2.", "bn2.recalibrate.0.bottleneck.expand."),
        ("cbam.sp_gate.conv.conv.", "bn2.recalibrate.1.conv2d."),
        ("cbam.sp_gate.conv.bn.", "bn2.recalibrate.1.bn."),
    )
    return f"layer{stage.removeprefix('stage')}.{int(unit.removeprefix('unit')) - 1}.{rest}"


def test_a_published_cbam_resnet_gives_its_logits():
    """And with the planes in the other order it would not."""
    zoo = pytest.importorskip("pytorchcv.models.cbamresnet")
    theirs = zoo.cbam_resnet18(num_classes=11)
    size = (3, 224, 224)
    ours = ab.create_model("resnet18", block="cbam", num_classes=11)
    got, expected = logits(ours, theirs, cbam_resnet, size)
    torch.testing.assert_close(got, expected, rtol=1e-10, atol=1e-10)
    former = str(ab.recipe("cbam")).replace("channel_pool", "channel_pool(order=mean_max)")
    wrong = ab.create_model("resnet18", block=former, num_classes=11)
    got, expected = logits(wrong, theirs, cbam_resnet, size)
    assert (got - expected).abs().max() > 1e-3 * expected.abs().max()


def test_a_published_se_resnet_for_cifar_gives_its_logits():
    """pytorchcv's seresnet20_cifar10, from its own plain resnet20_cifar10, boosted."""
    zoo = pytest.importorskip("pytorchcv.models.seresnet_cifar")
    plain = pytest.importorskip("pytorchcv.models.resnet_cifar").resnet20_cifar10()
    ours = ab.boost(plain, "se", example=torch.zeros(1, 3, 32, 32))

    def rename(name: str) -> str:
        gate = "body.conv2.bn.recalibrate.0.bottleneck."
        return replaced(name, ("se.conv1.", f"{gate}reduce."), ("se.conv2.", f"{gate}expand."))

    got, expected = logits(ours, zoo.seresnet20_cifar10(), rename, (3, 32, 32))
    torch.testing.assert_close(got, expected, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize(
    ("plain", "published", "block", "names"),
    [
        (
            *("resnet50", "seresnet50", "se"),
            (
                ("se.fc1.", "bn3.recalibrate.0.bottleneck.reduce."),
                ("se.fc2.", "bn3.recalibrate.0.bottleneck.expand."),
            ),
        ),
        (
            *("resnet26t", "ecaresnet26t", "eca"),
            (("se.conv.", "bn3.recalibrate.0.conv1d."),),
        ),
    ],
)
def test_a_published_network_of_timm_gives_its_logits(plain, published, block, names):
    """timm's plain network, boosted, with the weights of the one that has the block built in."""
    ours = ab.create_model(f"timm/{plain}", block=block, num_classes=7)
    theirs = timm.create_model(published, num_classes=7)
    got, expected = logits(ours, theirs, lambda name: replaced(name, *names), (3, 64, 64))
    torch.testing.assert_close(got, expected, rtol=1e-10, atol=1e-10)


def test_none_is_no_block_to_place():
    with pytest.raises(ValueError, match=r"the network without gates.*such as 'ab'"):
        ab.recipe("none")

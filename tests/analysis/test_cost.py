"""`ab.complexity` against the paper's counts, torch's and fvcore's counters, and hand counts."""

# N batch, C channels, H W space

from __future__ import annotations

import json
import warnings
from dataclasses import asdict

import pytest
import timm
import torch
import torch.nn.functional as F
import torchvision
from timm.layers import StdConv2d
from torch import nn
from torch.utils.flop_counter import FlopCounterMode, flop_registry, register_flop_formula

import accuracy_booster as ab
from accuracy_booster.analysis import conventions
from accuracy_booster.analysis.cost import _pass
from accuracy_booster.surgery import attach, attached
from accuracy_booster.surgery.sites import Site

R = 16  # SE's reduction


def on_meta(name: str, recipe: str | None = None, **options) -> nn.Module:
    with torch.device("meta"):
        return ab.create_model(name, block=recipe, **options)


def one_block(recipe: str, channels: int, batch: int = 1) -> ab.Complexity:
    """Of a network that is nothing but the block, on a 7x7 map."""
    with torch.device("meta"):
        model = nn.Sequential(nn.Identity())
        attach(model, recipe, [Site("0", channels, (7, 7))])
        return ab.complexity(model, (channels, 7, 7), batch_size=batch)


# the paper's numbers: shared/paper/counting.md

RESNET50, WRN18, SHUFFLENET = "resnet50v1", "wrn18_2", "shufflenet_g3"
RESNEXT, LEARNED = "resnext101_32x4d", {"input_size": (3, 224, 224)}


@pytest.mark.parametrize(
    ("name", "recipe", "parameters", "macs"),
    [
        (RESNET50, "se", 28_088_024, 3_860_488_192),
        (RESNET50, "cbam", 28_089_624, 3_864_362_102),
        (WRN18, "se", 45_970_456, 6_696_054_784),
        (WRN18, "cbam", 45_971_256, 6_697_219_284),
    ],
)
def test_parameters_with_the_blocks_biases(name, recipe, parameters, macs):
    cost = ab.complexity(on_meta(name, recipe))
    assert (cost.parameters, cost.macs) == (parameters, macs)


@pytest.mark.parametrize(
    ("name", "recipe", "parameters", "macs"),
    [
        (RESNET50, "ab", 25_572_136, 3_857_988_352),
        (RESNET50, "ab_plus", 45_676_584, 3_878_092_800),
        (WRN18, "ab", 45_622_056, 6_695_710_464),
        (WRN18, "ab_plus", 48_403_496, 6_698_491_904),
    ],
)
def test_block_weights_leave_the_norms_out(name, recipe, parameters, macs):
    cost = ab.complexity(on_meta(name, recipe))
    assert (cost.base.parameters + cost.block_weights, cost.macs) == (parameters, macs)
    channels = sum(block.channels for block in cost.blocks)
    assert cost.extra.parameters == cost.block_weights + 2 * channels


@pytest.mark.parametrize(
    ("name", "recipe", "parameters", "macs"),
    [
        (SHUFFLENET, None, 1_865_728, 140_459_472),
        (SHUFFLENET, "ab", 1_865_728 + 23_688, 140_467_368),
        (SHUFFLENET, "ab_plus", 1_865_728 + 4_900_848, 145_344_528),
        (RESNEXT, None, 44_177_704, 7_991_221_248),
        (RESNEXT, "se", 48_955_416, 7_995_964_416),
        (RESNEXT, "ge_theta_plus", 57_919_256, 8_004_895_744),
        (RESNEXT, "ge_theta_plus_ab", 53_239_080, 8_000_185_088),
    ],
)
def test_one_per_element_of_a_norm(name, recipe, parameters, macs):
    cost = ab.complexity(on_meta(name, recipe, **LEARNED), convention="mac+norm")
    assert (cost.parameters, cost.macs, cost.convention) == (parameters, macs, "mac+norm")


def test_one_per_element_of_a_residual_sum():
    cost = ab.complexity(on_meta("resnet152v1"), convention="mac+sum")
    stages = ((3, 256, 56), (8, 512, 28), (36, 1024, 14), (3, 2048, 7))
    assert cost.macs == 11_282_415_616 + sum(n * c * side**2 for n, c, side in stages)


def test_one_per_element_of_a_bias():
    """Of a convolution: the head's bias is added to vectors."""
    cost = ab.complexity(on_meta("resnet164v1", num_classes=100), convention="mac+bias")
    assert cost.macs == pytest.approx(246.588e6, abs=0.001e6)


@pytest.mark.parametrize("batch", [1, 32, 256])
@pytest.mark.parametrize("channels", [64, 256, 2048])
@pytest.mark.parametrize(
    ("recipe", "weights", "rtm_paper", "rtm"),
    [
        ("ab", lambda c: c, lambda c, b: 4 * c * (1 + b), lambda c, b: 4 * c * (1 + b)),
        ("ab_plus", lambda c: c * c, lambda c, b: 4 * c * (c + b), lambda c, b: 4 * c * (c + b)),
        *(
            (
                f"ab_g{g}",
                lambda c, g=g: c * c // g,
                lambda c, b, g=g: 4 * (c * c // g + c * b),
                lambda c, b, g=g: 4 * (c * c // g + c * b),
            )
            for g in (4, 16)
        ),
        (
            "se",
            lambda c: 2 * c * c // R,
            lambda c, b: 8 * c * (c + b) // R,
            lambda c, b: 4 * (2 * c * c // R + (c // R + c) * b),
        ),
    ],
)
def test_table_1(recipe, weights, rtm_paper, rtm, channels, batch):
    """SE's second layer gives C outputs; the paper's formula has C / r."""
    (block,) = one_block(recipe, channels, batch).blocks
    assert block.weights == weights(channels)
    assert block.macs == weights(channels) * batch
    assert block.rtm_paper == rtm_paper(channels, batch)
    assert block.rtm == rtm(channels, batch)
    assert (block.site, block.channels, block.spatial_size) == ("0", channels, (7, 7))


@pytest.mark.parametrize(
    ("recipe", "batch", "rtm_paper", "rtm"),
    [
        ("ab", 1, 120_832, 120_832),
        ("ab", 256, 15_526_912, 15_526_912),
        ("se", 1, 10_067_328, None),
        ("se", 256, 11_993_088, 26_492_928),
    ],
)
def test_memory_of_all_blocks_of_resnet50(recipe, batch, rtm_paper, rtm):
    blocks = ab.complexity(on_meta(RESNET50, recipe), batch_size=batch).blocks
    assert sum(block.rtm_paper for block in blocks) == rtm_paper
    if rtm is not None:
        assert sum(block.rtm for block in blocks) == rtm


@pytest.mark.parametrize(
    ("recipe", "depth"), [(None, 0), ("ab", 1), ("ab_plus", 1), ("se", 2), ("design_f", 0)]
)
def test_depth_is_the_layers_of_a_block(recipe, depth):
    cost = ab.complexity(on_meta("resnet56", recipe))
    assert cost.depth == depth
    assert [block.depth for block in cost.blocks] == [depth] * (27 if recipe else 0)


# what boosting adds


@pytest.mark.parametrize("recipe", [*ab.list_recipes(), "ab_g4"])
@pytest.mark.parametrize("batch", [1, 3])
def test_extra_is_boosted_minus_plain(recipe, batch):
    size = (3, 16, 16)
    plain = ab.complexity(on_meta("resnet8"), size, batch_size=batch)
    boosted = ab.complexity(on_meta("resnet8", recipe, input_size=size), size, batch_size=batch)
    for name, extra in asdict(boosted.extra).items():
        assert getattr(boosted.base, name) == getattr(plain, name), name
        if "rtm" not in name:  # a block's stores its weights only
            assert extra == sum(getattr(block, name) for block in boosted.blocks), name
            assert getattr(boosted, name) == getattr(plain, name) + extra, name
    assert [block.site for block in boosted.blocks] == [f"layer{i}.0.bn2" for i in (1, 2, 3)]
    assert [block.channels for block in boosted.blocks] == [16, 32, 64]
    assert [block.spatial_size for block in boosted.blocks] == [(16, 16), (8, 8), (4, 4)]


def test_a_plain_network_is_its_own_base():
    cost = ab.complexity(on_meta("resnet8"))
    assert not cost.blocks
    assert not any(asdict(cost.extra).values())


def test_where_attention_was_the_base_has_its_own():
    """A replaced SE module is part of the unboosted network, in parameters and in arithmetic."""
    size, model = (3, 64, 64), timm.create_model("seresnet18")
    plain = ab.complexity(model, size)
    ab.boost(model, "ab", where="attention")
    boosted = ab.complexity(model, size)
    assert len(boosted.blocks) == 8
    assert asdict(boosted.base) == {name: getattr(plain, name) for name in asdict(boosted.base)}
    assert boosted.parameters == sum(p.numel() for p in model.parameters()) < plain.parameters


# other counters


def flop_counter_macs(model: nn.Module, size: tuple[int, int, int]) -> int:
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        model.eval()(torch.empty(1, *size, device="meta"))
    return counter.get_total_flops() // 2


@pytest.mark.parametrize(
    "name",
    [
        *("timm/resnet18", "timm/mobilenetv3_small_100", "timm/efficientnet_b0"),
        *("timm/convnext_atto", "timm/densenet121", "timm/test_nfnet", "timm/ghostnet_050"),
        *("timm/test_vit", "timm/test_maxvit", "timm/swin_tiny_patch4_window7_224"),
        *("torchvision/googlenet", "torchvision/shufflenet_v2_x0_5", "torchvision/vit_b_16"),
        *("torchvision/squeezenet1_1", "torchvision/vgg11", "torchvision/mnasnet0_5"),
    ],
)
def test_macs_equal_torchs_flop_counter(name):
    """Convolutions, products and attention; and nothing in these networks is unknown."""
    model = on_meta(name)
    cost = ab.complexity(model)
    assert cost.macs == flop_counter_macs(model, cost.input_size)
    assert cost.uncounted == {}
    assert cost.parameters == sum(p.numel() for p in model.parameters())


FVCORE = ["resnet18", "mobilenet_v2", "densenet121", "squeezenet1_1", "efficientnet_b0"]


@pytest.mark.parametrize("name", FVCORE)
def test_macs_equal_fvcore(name):
    fvcore = pytest.importorskip("fvcore.nn")
    model = torchvision.models.get_model(name).eval()
    theirs = fvcore.FlopCountAnalysis(model, torch.zeros(1, 3, 64, 64))
    theirs.unsupported_ops_warnings(False).uncalled_modules_warnings(False)
    by_operator = theirs.by_operator()
    cost = ab.complexity(model, (3, 64, 64))
    assert cost.macs == by_operator["conv"] + by_operator["linear"]


@pytest.mark.parametrize("name", ["resnet50", "mobilenet_v2"])
def test_activations_equal_fvcore(name):
    fvcore = pytest.importorskip("fvcore.nn")
    model = torchvision.models.get_model(name).eval()
    theirs = fvcore.ActivationCountAnalysis(model, torch.zeros(1, 3, 64, 64))
    theirs.unsupported_ops_warnings(False).uncalled_modules_warnings(False)
    assert ab.complexity(model, (3, 64, 64)).activations == theirs.total()


# by hand


class Small(nn.Module):
    """One of each kind of arithmetic."""

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3, padding=1)
        self.norm = nn.BatchNorm2d(4)
        self.pool = nn.AvgPool2d(2)
        self.head = nn.Linear(64, 5)

    def forward(self, x):
        x = self.pool(F.relu(self.norm(self.conv(x))))
        x = x + 1
        x = x * x.sigmoid()
        return self.head(x.flatten(1)).softmax(1)


@pytest.mark.parametrize("batch", [1, 2, 7])
def test_every_kind_of_arithmetic_by_hand(batch):
    large, small = 4 * 8 * 8, 4 * 4 * 4  # elements before and after pooling
    maps = {"mac": large * 3 * 3 * 3, "bias": large, "norm": large, "pool": large}
    maps |= {"activation": large + small, "sum": small, "scale": small}
    vectors = {"mac": 64 * 5, "bias": 5, "softmax": 5}
    cost = ab.complexity(Small(), (3, 8, 8), batch_size=batch)
    assert dict(+cost.count.maps) == {kind: batch * n for kind, n in maps.items()}
    assert dict(+cost.count.vectors) == {kind: batch * n for kind, n in vectors.items()}
    flops = 2 * (maps["mac"] + 320) + (large + 5) + 2 * large + large  # mac, bias, norm, pool
    flops += large + small + small + small + 3 * 5  # activations, sum, scale, softmax
    assert cost.flops == batch * flops
    assert cost.macs == batch * (maps["mac"] + 320)
    assert cost.activations == batch * (large + 5)
    assert cost.parameters == 4 * 27 + 4 + 2 * 4 + 320 + 5
    assert cost.weights == 4 * 27 + 320
    assert cost.rtm == 4 * (cost.parameters + cost.activations)
    terms = sum(batch * n for n in maps.values())
    everything = "+".join(("mac", *conventions.TERMS))
    assert conventions.count(cost.count, everything) == terms + batch * 320


@pytest.mark.parametrize(
    ("module", "kind", "elements"),
    [
        (nn.MaxPool2d(3, 2, padding=1), "pool", 2 * 4 * 4 * 9),
        (nn.AdaptiveAvgPool2d(1), "pool", 2 * 8 * 8),
        (nn.Upsample(scale_factor=2, mode="bilinear"), "pool", 2 * 16 * 16 * 4),
        (nn.Hardswish(), "activation", 2 * 8 * 8),
        (nn.GELU(), "activation", 2 * 8 * 8),
        (nn.PReLU(), "activation", 2 * 8 * 8),
        (nn.ReLU6(inplace=True), "activation", 2 * 8 * 8),
        (nn.Softmax(1), "softmax", 2 * 8 * 8),
        (nn.Flatten(), "pool", 0),
        (nn.Dropout(), "scale", 0),
        (nn.ZeroPad2d(1), "pool", 0),
        (nn.PixelShuffle(1), "pool", 0),
        (nn.Upsample(scale_factor=2), "pool", 0),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, nn.Module) else str(value),
)
def test_operators_by_hand(module, kind, elements):
    count = ab.complexity(module, (2, 8, 8)).count
    found = +(count.maps + count.vectors)
    assert dict(found) == ({kind: elements} if elements else {})


def test_a_layer_or_group_norm_also_reads_for_its_statistics():
    for norm in (nn.GroupNorm(2, 4), nn.LayerNorm(8)):
        assert dict(+ab.complexity(norm, (4, 8, 8)).count.maps) == {"norm": 256, "pool": 256}


# batches


@pytest.mark.parametrize("recipe", [None, "ab", "se"])
def test_all_but_parameters_grows_with_the_batch(recipe):
    model = on_meta("resnet18", recipe)
    one, many = (ab.complexity(model, batch_size=batch) for batch in (1, 64))
    assert (many.parameters, many.weights, many.batch_size) == (one.parameters, one.weights, 64)
    for name in ("macs", "flops", "activations"):
        assert getattr(many, name) == 64 * getattr(one, name)
        for few, lots in zip(one.blocks, many.blocks, strict=True):
            assert getattr(lots, name) == 64 * getattr(few, name)
    assert many.rtm - one.rtm == 4 * 63 * one.activations


def standardised() -> nn.Module:
    return nn.Sequential(StdConv2d(3, 8, 3), nn.ReLU(), StdConv2d(8, 4, 3))


@pytest.mark.parametrize(
    ("make", "size"),
    [(standardised, (3, 9, 9)), (lambda: timm.create_model("resnetv2_50"), (3, 64, 64))],
    ids=["small", "resnetv2_50"],
)
@pytest.mark.parametrize("batch", [2, 5])
def test_what_is_made_of_weights_alone_counts_once_a_batch(make, size, batch):
    """Extrapolated from one and two images, it is what a pass of that batch counts."""
    with torch.device("meta"):
        model = make()
    cost, direct = (
        ab.complexity(model, size, batch_size=batch),
        _pass(model, torch.zeros(batch, *size), "").total,
    )
    assert +cost.count.maps == +direct.maps
    assert +cost.count.vectors == +direct.vectors
    assert (cost.macs, cost.flops, cost.activations) == (direct.macs, direct.flops, direct.outputs)
    if make is standardised:
        assert cost.flops < batch * ab.complexity(model, size).flops


def test_a_cost_is_json():
    cost = ab.complexity(on_meta("resnet8", "ab"))
    found = json.loads(json.dumps(cost.to_dict()))
    assert found["count"]["maps"]["mac"] + found["count"]["vectors"]["mac"] == cost.macs
    assert found["block_weights"] == 16 + 32 + 64
    assert found["extra"]["parameters"] == 3 * (16 + 32 + 64)


# the model


def state(model: nn.Module) -> tuple:
    modules = list(model.modules())
    hooks = [(len(m._forward_hooks), len(m._forward_pre_hooks)) for m in modules]
    enabled = [gate.enabled for gate in attached(model).values()]
    return [m.training for m in modules], hooks, enabled, [p.grad for p in model.parameters()]


@pytest.mark.parametrize("size", [(3, 16, 16), (1, 16, 16)], ids=["counted", "refused"])
def test_nothing_of_the_model_changes(size):
    model = ab.create_model("resnet8", block="cbam").train()
    model.fc = nn.Sequential(nn.Dropout(0.5), model.fc)
    model.layer2.eval()
    before = state(model)
    tensors = {name: value.clone() for name, value in model.state_dict().items()}
    random = torch.get_rng_state()
    if size[0] == 3:
        ab.complexity(model, size, batch_size=4)
    else:
        with pytest.raises(ValueError, match="3 channels"):
            ab.complexity(model, size)
    assert state(model) == before
    assert torch.equal(torch.get_rng_state(), random)
    after = model.state_dict()
    assert list(after) == list(tensors)
    for name, value in tensors.items():
        assert torch.equal(after[name], value), name


@pytest.mark.parametrize(
    ("name", "recipe", "options"),
    [
        ("resnet8", "cbam", {}),
        ("resnet8", "design_h_bn", {"input_size": (3, 24, 24)}),
        ("shufflenet_g3", "se", {}),
        ("timm/mobilenetv3_small_100", "eca", {}),
        ("torchvision/resnet18", "ab", {}),
    ],
)
def test_a_network_with_real_weights_costs_what_it_does_on_meta(name, recipe, options):
    size = options.get("input_size", (3, 64, 64))
    costs = []
    for device in ("cpu", "meta"):
        with torch.device(device), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # networks that have attention modules
            model = ab.create_model(name, block=recipe, **options)
            costs.append(ab.complexity(model, size, batch_size=3).to_dict())
    assert costs[0] == costs[1]


@pytest.mark.parametrize(
    ("name", "size"),
    [
        ("resnet8", (3, 32, 32)),
        ("shufflenet_g3", (3, 224, 224)),
        ("timm/test_vit", (3, 160, 160)),
        ("torchvision/resnet18", (3, 224, 224)),
    ],
)
def test_the_size_is_the_networks_own(name, size):
    assert ab.complexity(on_meta(name)).input_size == size


def test_images_of_other_channels():
    assert ab.complexity(on_meta("shufflenet_g3", in_chans=1)).input_size == (1, 224, 224)
    assert ab.complexity(nn.Conv2d(5, 2, 1)).input_size == (5, 224, 224)


@pytest.mark.parametrize("name", ["timm/test_vit", "torchvision/vit_b_16"])
def test_attention_counts_the_same_whatever_kernel_the_device_takes(name):
    """On the CPU, torch fuses attention in eval mode."""
    costs = []
    for device in ("meta", "cpu"):
        with torch.device(device):
            cost = ab.complexity(ab.create_model(name))
        costs.append((cost.macs, cost.activations, cost.uncounted))
    assert costs[0] == costs[1]


@pytest.mark.parametrize("around", [torch.no_grad, torch.inference_mode, torch.enable_grad])
def test_the_callers_mode_makes_no_difference(around):
    model = ab.create_model("resnet8", block="se")
    with around():
        cost = ab.complexity(model)
    assert cost.to_dict() == ab.complexity(model).to_dict()


def test_a_gate_that_does_not_run_costs_no_arithmetic():
    class Half(nn.Module):
        def __init__(self):
            super().__init__()
            self.used, self.unused = nn.Conv2d(3, 4, 1), nn.Conv2d(3, 4, 1)

        def forward(self, x):
            return self.used(x)

    sites = [Site("used", 4, (8, 8)), Site("unused", 4, (8, 8))]
    cost = ab.complexity(attach(Half(), "ab", sites), (3, 8, 8))
    assert cost.extra.macs == 4


# operators nobody knows


@pytest.fixture(scope="module")
def mystery():
    @torch.library.custom_op("ab_test::mystery", mutates_args=())
    def operator(x: torch.Tensor) -> torch.Tensor:
        return x.clone()

    @operator.register_fake
    def _(x):
        return torch.empty_like(x)

    return torch.ops.ab_test.mystery


class Mystery(nn.Module):
    def __init__(self, times: int = 2):
        super().__init__()
        self.conv, self.times = nn.Conv2d(3, 4, 1, bias=False), times

    def forward(self, x):
        x = self.conv(x)
        for _ in range(self.times):
            x = torch.ops.ab_test.mystery(x)
        return x


@pytest.mark.parametrize("device", ["cpu", "meta"])
@pytest.mark.parametrize("batch", [1, 3])
def test_an_unknown_operator_is_reported(mystery, device, batch):
    model = Mystery().to(device)
    with pytest.warns(UserWarning, match=r"cannot count ab_test::mystery \(2x\)") as caught:
        cost = ab.complexity(model, (3, 5, 5), batch_size=batch)
    assert cost.uncounted == {"ab_test::mystery": 2}
    assert cost.macs == batch * 3 * 4 * 25
    assert len(caught) == 1
    assert caught[0].filename == __file__
    assert "\n" not in str(caught[0].message)


def test_an_operator_with_a_formula_is_counted(mystery):
    @register_flop_formula(mystery)
    def formula(shape, *args, out_shape=None, **kwargs) -> int:
        return 2 * 1000 * shape[0]

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            cost = ab.complexity(Mystery(), (3, 5, 5), batch_size=3)
    finally:
        del flop_registry[mystery]
    assert cost.uncounted == {}
    assert cost.macs == 3 * (3 * 4 * 25 + 2 * 1000)


# bad input

TINY = nn.Sequential(nn.Conv2d(3, 2, 5), nn.Conv2d(2, 2, 5))


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"convention": "mac+nrom"}, r"'mac\+nrom'.*mac\+norm"),
        ({"convention": "flops"}, r"'flops'.*mac\+norm"),
        ({"convention": "mac+norm+norm"}, r"mac\+norm\+norm"),
        ({"convention": "norm"}, "'norm'"),
        ({"input_size": (3, 8)}, r"\[1, 3, 8\].*\(C, H, W\)"),
        ({"input_size": ()}, r"input_size=\(\) must be whole numbers.*\(C, H, W\)"),
        ({"input_size": (3, 0, 8)}, r"\(3, 0, 8\).*\(C, H, W\)"),
        ({"input_size": (3, 8.5, 8)}, r"8\.5.*\(C, H, W\)"),
        ({"input_size": 224}, r"224.*\(C, H, W\)"),
        ({"input_size": (1, 16, 16)}, r"\[1, 1, 16, 16\].*input_size"),
        ({"input_size": (3, 8, 8)}, r"\[1, 3, 8, 8\].*input_size"),
        ({"batch_size": 0}, "batch_size=0"),
        ({"batch_size": True}, "batch_size=True"),
        ({"batch_size": 1.5}, "batch_size=1.5"),
        ({"model": "resnet8"}, "expected an nn.Module, got str"),
        ({"model": torchvision.models.Inception3, "input_size": (3, 32, 32)}, "Inception3 cannot"),
    ],
)
def test_bad_arguments_get_one_line(given, message):
    given = {"model": TINY, **given}
    if isinstance(given["model"], type):
        with torch.device("meta"):
            given["model"] = given["model"](init_weights=False)
    with pytest.raises(ValueError, match=message) as caught:
        ab.complexity(**given)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("recipe", ["ge_theta", "design_h"])
def test_a_gate_of_one_size_refuses_images_of_another(recipe):
    model = on_meta("resnet8", recipe, input_size=(3, 16, 16))
    assert ab.complexity(model, (3, 16, 16)).blocks
    with pytest.raises(ValueError, match=r"16x16 map and got a 24x24 map.*input_size") as caught:
        ab.complexity(model, (3, 24, 24))
    assert "\n" not in str(caught.value)

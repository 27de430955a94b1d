"""Residual branches are found from how data flow: the right number, and each is the right one.

A gate that is shut must leave the shortcut alone, however the network is written.
"""

# N batch, C channels, H W space

from __future__ import annotations

import copy
import re
import warnings

import pytest
import timm
import torch
import torchvision
from support.boosting import (
    images,
)
from support.drawn_branches import (
    names,
)
from support.gates import shut
from support.networks import randomise
from support.residual_blocks import (
    BODIES,
    PICTURE,
    Body,
    InPlace,
    OperatorIadd,
    StemAndBody,
    branch,
)
from support.sites import (
    BlockOfRank,
    ByName,
    C,
    Two,
    sites_of,
)
from torch import nn
from torch.overrides import TorchFunctionMode

import accuracy_booster as ab
from accuracy_booster.models import create_model
from accuracy_booster.surgery import attached


def test_boosting_a_checkpointed_network_finds_the_same_sites():
    model = timm.create_model("test_resnet")
    expected = [g.site for g in ab.plan(model, "ab", example=images(1, 64)).gates]
    model.set_grad_checkpointing(True)
    assert [g.site for g in ab.plan(model, "ab", example=images(1, 64)).gates] == expected


@pytest.mark.parametrize("size", [(), (9,), (6, 7), (4, 5, 6)], ids=str)
def test_a_residual_network_of_each_rank(size):
    dims = len(size)
    model = nn.Sequential(BlockOfRank(dims), BlockOfRank(dims))
    sites = sites_of(model, torch.randn(2, C, *size))
    assert [(s.name, s.channels, s.spatial_size, s.layout) for s in sites] == [
        (f"{i}.b.4", C, size, "NCHW") for i in (0, 1)
    ]


def test_a_residual_head_on_vectors():
    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.maps = nn.Sequential(*(BlockOfRank(2) for _ in range(3)))
            self.head = nn.Sequential(*(BlockOfRank(0) for _ in range(3)))

        def forward(self, x):
            return self.head(self.maps(x).mean((2, 3)))

    sites = sites_of(Net(), torch.randn(2, C, 6, 6))
    assert [(s.name, s.spatial_size) for s in sites] == [
        *((f"maps.{i}.b.4", (6, 6)) for i in range(3)),
        *((f"head.{i}.b.4", ()) for i in range(3)),
    ]
    assert ab.plan(Net()).skipped == []


@pytest.mark.parametrize("name", ["r3d_18", "r2plus1d_18"])
def test_video_networks(name):
    model, x = getattr(torchvision.models.video, name)(num_classes=3), torch.randn(1, 3, 4, 16, 16)
    sites = sites_of(model, x)
    assert len(sites) == len(names(model, x)) == 8
    assert all(len(site.spatial_size) == 3 for site in sites)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(
    ("name", "options", "count"),
    [
        ("resnet18", {"spatial_dims": 3, "n_input_channels": 1, "num_classes": 2}, 8),
        ("SegResNet", {"spatial_dims": 3, "init_filters": 8}, 12),
        ("SegResNet", {"spatial_dims": 3, "init_filters": 8, "upsample_mode": "deconv"}, 12),
        ("SegResNet", {"spatial_dims": 3, "init_filters": 8, "upsample_mode": "pixelshuffle"}, 12),
        *(("UNet", {"spatial_dims": dims, "num_res_units": 2}, 4) for dims in (1, 2, 3)),
    ],
    ids=lambda v: v.get("upsample_mode", v["spatial_dims"]) if isinstance(v, dict) else str(v),
)
def test_networks_for_medical_images(name, options, count):
    nets = pytest.importorskip("monai.networks.nets")
    if name == "UNet":
        options |= {"channels": (4, 8, 16), "strides": (2, 2), "in_channels": 1, "out_channels": 2}
    dims = options["spatial_dims"]
    sites = sites_of(getattr(nets, name)(**options), torch.randn(1, 1, *(32,) * dims))
    assert [len(site.spatial_size) for site in sites] == [dims] * count
    assert ab.plan(getattr(nets, name)(**options)).skipped == []


class Tokens(nn.Module):
    """x + mlp(norm(x)) on [N, L, C]."""

    def __init__(self):
        super().__init__()
        mlp = nn.Linear(C, 2 * C), nn.GELU(), nn.Linear(2 * C, C)
        self.f = nn.Sequential(nn.LayerNorm(C), *mlp)

    def forward(self, x):
        return x + self.f(x)


def test_token_maps_are_no_feature_maps():
    model = nn.Sequential(nn.Conv2d(3, C, 4, 4), nn.Flatten(2))
    model = nn.Sequential(model, Transposed(), Tokens(), Tokens())
    words = r"no residual branch of feature maps.*2 branches.*token maps \[N, L, C\].*where="
    with pytest.raises(ValueError, match=words):
        ab.plan(model, example=torch.zeros(1, 3, 16, 16))
    with pytest.raises(ValueError, match=r"token maps.*encoder_layer_0"):
        ab.plan(torchvision.models.vit_b_16(image_size=32, num_classes=2), example=zeros(32))
    with pytest.raises(ValueError, match="token maps"):
        ab.plan(torchvision.models.swin_t(num_classes=2), example=zeros(64))


class Transposed(nn.Module):
    def forward(self, x):
        return x.transpose(1, 2)


def zeros(size):
    return torch.zeros(1, 3, size, size)


def test_token_maps_beside_feature_maps_are_said_to_be_skipped():
    maps = nn.Sequential(BlockOfRank(2), BlockOfRank(2), nn.Flatten(2), Transposed())
    planned = ab.plan(nn.Sequential(maps, Tokens(), Tokens()), example=torch.zeros(1, C, 4, 4))
    assert [g.site.name for g in planned.gates] == ["0.0.b.4", "0.1.b.4"]
    (line,) = planned.skipped
    assert re.search(r"2 branches .* token maps \[N, L, C\]", line)


def test_tokens_in_the_batch_are_no_vectors():
    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.maps, self.f = BlockOfRank(2), BlockOfRank(0)

        def forward(self, x):
            y = self.maps(x).flatten(2).transpose(1, 2).reshape(-1, C)
            return self.f(y)

    planned = ab.plan(Net(), example=torch.zeros(1, C, 4, 4))
    assert [g.site.name for g in planned.gates] == ["maps.b.4"]
    assert len(planned.skipped) == 1


@pytest.mark.parametrize(
    ("name", "count", "last"),
    [
        ("resnet20", 9, "bn2"),
        ("wrn16_4", 6, "conv2"),
        ("resnet50", 16, "bn3"),
        ("shufflenet_g3", 16, "bn3"),
    ],
)
def test_the_librarys_own_networks_keep_their_sites(name, count, last):
    model = create_model(name)
    size = 64 if name in ("resnet50", "shufflenet_g3") else 32
    sites = sites_of(model, torch.randn(1, 3, size, size))
    assert [site.name.rpartition(".")[2] for site in sites] == [last] * count


def test_two_inputs_are_gated_once():
    (site,) = sites_of(Two(), torch.randn(2, C, 6, 6), torch.randn(2, C, 6, 6))
    assert site.name == "block.b.4"
    (site,) = sites_of(ByName(), image=torch.randn(2, C, 6, 6))
    assert site.name == "block.b.4"


def test_networks_of_libraries_keep_the_number_of_their_sites():
    for model, count in (
        (timm.create_model("test_resnet", num_classes=2), 4),
        (torchvision.models.shufflenet_v2_x0_5(num_classes=2), 13),
    ):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            sites = sites_of(model, torch.randn(1, 3, 64, 64))
        assert len(sites) == count
        assert not any(isinstance(model.get_submodule(s.name), nn.ReLU) for s in sites)


FAMILIES = {  # how to build it: its number of residual branches, from its definition; image side
    # He et al. 2016, Table 1: 2 + 2 + 2 + 2 and 3 + 4 + 6 + 3 blocks
    "torchvision/resnet18": (8, 64),
    "torchvision/resnet50": (16, 64),
    "timm/resnext50_32x4d": (16, 64),
    "timm/resnet18d": (8, 64),
    "timm/res2net50_26w_4s": (16, 64),
    "timm/skresnet18": (8, 64),
    "timm/resnest14d": (4, 64),  # 1 + 1 + 1 + 1
    "timm/resnetv2_18": (8, 64),  # pre-activation, 2 + 2 + 2 + 2
    "timm/cspresnet50": (13, 64),  # depths 3, 3, 5, 2; the concatenations of stages are none
    # Radosavovic et al. 2020: depths 1, 1, 4, 7
    "timm/regnetx_002": (13, 64),
    "timm/regnety_002": (13, 64),
    # MobileNetV2, Table 2: n - 1 of each row with n = 1, 2, 3, 4, 3, 3, 1
    "torchvision/mobilenet_v2": (10, 64),
    # MobileNetV3, Table 2: the rows of stride 1 with as many channels out as in
    "torchvision/mobilenet_v3_small": (6, 64),
    # EfficientNet, Table 1: n - 1 of 1, 2, 2, 3, 3, 4, 1
    "torchvision/efficientnet_b0": (9, 64),
    "timm/efficientnet_b0": (9, 64),
    "timm/convnext_atto": (12, 64),  # depths 2, 2, 6, 2
    "torchvision/convnext_tiny": (18, 64),  # depths 3, 3, 9, 3
    "timm/ghostnet_100": (16, 64),  # GhostNet, Table 1: 16 bottlenecks, each with a shortcut
    "timm/nf_resnet26": (8, 64),  # 2 + 2 + 2 + 2
    "timm/test_nfnet": (4, 64),  # 1 + 1 + 1 + 1
    # hrnet.py, its cfg: 1 + 2 * 2 + 3 * 2 + 4 * 2 blocks, and 4 that widen before the head
    "timm/hrnet_w18_small": (23, 64),
    # DLA-34, Table 1: trees of depths 1, 2, 2, 1 over two basic blocks each: 2 + 4 + 4 + 2
    "timm/dla34": (12, 64),
    "timm/darknet53": (23, 64),  # YOLOv3, Table 1: 1 + 2 + 8 + 8 + 4
    "timm/legacy_xception": (12, 96),  # Xception, Fig. 5: all 14 modules but the first and last
    "timm/inception_resnet_v2": (40, 96),  # 10 + 20 + 10 blocks
    # ReXNet-1.0: 1 + 2 + 2 + 3 + 3 + 5 blocks less 4 strided ones and the first (32 -> 16)
    "timm/rexnet_100": (11, 64),
    # depths 2, 2, 6, 2; a mixer that pools has no layer, so one branch with layers in each
    "timm/poolformer_s12": (12, 64),
    # depths 2, 2, 14, 2 and two channel mixers in each of three downsamplings
    "timm/repvit_m0_9": (26, 64),
    "timm/fastvit_t8": (10, 64),  # depths 2, 2, 4, 2; its token mixers are linear sums (RepVGG's)
    # 4 + 8 + 4 units, of which the first of each stage has layers in both halves
    "torchvision/shufflenet_v2_x0_5": (13, 64),
    "timm/densenet121": (0, 64),
    "torchvision/densenet121": (0, 64),
    "torchvision/vgg11": (0, 64),
    "torchvision/googlenet": (0, 96),
    "torchvision/inception_v3": (0, 96),
    "timm/inception_v4": (0, 96),
    "timm/repvgg_a0": (0, 64),
    "timm/mobileone_s0": (0, 64),
    "timm/vit_tiny_patch16_224": (0, 64),
    "torchvision/swin_t": (0, 64),
}
OPTIONS = {  # skip slow initialisations
    "torchvision/vgg11": {"init_weights": False},
    "torchvision/googlenet": {"init_weights": False, "aux_logits": False},
    "torchvision/inception_v3": {"init_weights": False, "aux_logits": False},
    "timm/vit_tiny_patch16_224": {"img_size": 64, "depth": 2},
}


def build(name):
    library, _, name_there = name.partition("/")
    options = OPTIONS.get(name, {})
    if library == "timm":
        return timm.create_model(name_there, **options)
    return torchvision.models.get_model(name_there, weights=None, **options)


class Sums(TorchFunctionMode):
    """Counts the calls of those names with two maps of which exactly one is zero everywhere."""

    def __init__(self, names):
        super().__init__()
        self.names, self.one_is_zero = names, 0

    def __torch_function__(self, func, types, args=(), kwargs=None):
        name = getattr(func, "__name__", "")
        if name in self.names:
            operands = args[0] if name == "cat" else args[:2]
            maps = [a for a in operands if isinstance(a, torch.Tensor) and a.ndim == 4]
            if len(maps) == 2 == len(operands):
                zero = [not m.any() for m in maps]
                self.one_is_zero += zero[0] != zero[1]
        return func(*args, **(kwargs or {}))


ADDITIONS = ("add", "add_", "__add__", "__iadd__", "__radd__")


def dead_sums(model, x, names=ADDITIONS):
    with torch.no_grad(), Sums(names) as sums:
        model(x)
    return sums.one_is_zero


@pytest.mark.parametrize("name", [name for name, row in FAMILIES.items() if row[0]])
@pytest.mark.filterwarnings("ignore:the network has .* attention modules")
def test_every_residual_branch_of_the_family_has_its_gate(name):
    count, side = FAMILIES[name]
    model, x = randomise(build(name)).eval(), torch.randn(2, 3, side, side)
    planned = ab.plan(model, "ab", example=x[:1])
    names = [gate.site.name for gate in planned.gates]
    assert len(set(names)) == len(names) == count
    assert planned.skipped == []
    shapes = {}
    for site_name in names:
        model.get_submodule(site_name).register_forward_hook(
            lambda m, args, y, key=site_name: shapes.__setitem__(key, tuple(y.shape[1:]))
        )
    joins = ("cat",) if "shufflenet" in name else ADDITIONS
    assert dead_sums(model, x, joins) == 0
    for gate in planned.gates:
        site = gate.site
        sides = site.spatial_size
        expected = (site.channels, *sides) if site.layout == "NCHW" else (*sides, site.channels)
        assert shapes[site.name] == expected, site
    shut(ab.boost(model, "ab", example=x[:1]))
    # each gate that is shut leaves one sum whose other side is all that it gives
    assert dead_sums(model, x, joins) == count


@pytest.mark.parametrize("name", [name for name, row in FAMILIES.items() if not row[0]])
def test_a_family_without_residual_branches_is_refused(name):
    side = FAMILIES[name][1]
    model = build(name)
    keys = list(model.state_dict())
    with pytest.raises(ValueError, match=r"no residual branch.*where="):
        ab.boost(model, "ab", example=torch.zeros(1, 3, side, side))
    assert list(model.state_dict()) == keys
    assert not any(m._forward_hooks for m in model.modules())


def test_the_names_are_those_of_the_last_norms():
    planned = ab.plan(build("torchvision/resnet50"), "ab", example=torch.zeros(1, 3, 64, 64))
    expected = [
        f"layer{stage}.{i}.bn3" for stage, n in enumerate((3, 4, 6, 3), 1) for i in range(n)
    ]
    assert [gate.site.name for gate in planned.gates] == expected
    sizes = [gate.site.spatial_size for gate in planned.gates]
    assert sizes == [(16, 16)] * 3 + [(8, 8)] * 4 + [(4, 4)] * 6 + [(2, 2)] * 3
    channels = [gate.site.channels for gate in planned.gates]
    assert channels == [256] * 3 + [512] * 4 + [1024] * 6 + [2048] * 3


def test_convnext_of_timm_is_gated_in_nhwc():
    small = {"depths": (1, 1, 2, 1), "dims": (40, 48, 56, 64)}
    model = randomise(timm.create_model("convnext_tiny", **small)).eval()  # mlps of nn.Linear
    x = torch.randn(2, 3, 64, 64)
    planned = ab.plan(model, "ab", example=x[:1])
    assert len(planned.gates) == 5
    assert {gate.site.layout for gate in planned.gates} == {"NHWC"}
    assert planned.gates[0].site.channels == 40
    assert planned.gates[0].site.spatial_size == (16, 16)
    assert dead_sums(shut(ab.boost(model, "ab", example=x[:1])), x) == 5


@pytest.mark.parametrize("kind", BODIES, ids=lambda kind: kind.__name__)
@pytest.mark.filterwarnings("ignore:.*attention:UserWarning")
def test_a_shut_gate_leaves_the_shortcut_alone(kind):
    model, x = randomise(StemAndBody(kind())), torch.randn(2, 3, 12, 12)
    plain = model.eval()(x)
    planned = ab.plan(model, "ab", example=PICTURE)
    assert {g.site.name for g in planned.gates} == {f"body.{name}" for name in kind.sites}
    ab.boost(model, "ab", example=PICTURE)
    with torch.no_grad():
        open_output = model(x)
        got, expected = shut(model)(x), model.body.skip(model.stem(x))
    torch.testing.assert_close(got, expected)
    for one, other in zip(leaves(open_output)[:1], leaves(plain)[:1], strict=True):
        assert not torch.allclose(one, other, rtol=1e-3)


def leaves(tree):
    if isinstance(tree, torch.Tensor):
        return [tree]
    return [leaf for item in (tree.values() if isinstance(tree, dict) else tree) for leaf in [item]]


@pytest.mark.parametrize("kind", BODIES, ids=lambda kind: kind.__name__)
@pytest.mark.filterwarnings("ignore:.*attention:UserWarning")
def test_identity_keeps_every_bit_in_both_modes(kind):
    model, x = randomise(StemAndBody(kind())), torch.randn(4, 3, 12, 12)
    gated = ab.boost(copy.deepcopy(model), "ab", example=PICTURE, init="identity")
    for training in (False, True):
        torch.manual_seed(1)
        expected = leaves(model.train(training)(x))
        torch.manual_seed(1)
        for one, other in zip(leaves(gated.train(training)(x)), expected, strict=True):
            assert torch.equal(one, other)


@pytest.mark.parametrize("kind", BODIES, ids=lambda kind: kind.__name__)
@pytest.mark.filterwarnings("ignore:.*attention:UserWarning")
def test_gates_leave_the_gradients_of_in_place_code_intact(kind):
    """Where the plain network's backward pass works, so does the boosted one's."""
    if kind in (InPlace, OperatorIadd):
        pytest.skip("its own backward pass fails: it overwrites what a convolution has saved")
    x = torch.randn(4, 3, 12, 12)
    model = ab.boost(randomise(StemAndBody(kind())).train(), "ab", example=PICTURE)
    leaves(model(x))[0].square().sum().backward()
    for name, value in model.named_parameters():
        if ".recalibrate." in name:
            assert value.grad is not None, name
            assert value.grad.isfinite().all(), name


class SharedBlock(Body):
    """One branch called twice, then a branch of its own."""

    def __init__(self):
        super().__init__()
        self.g = branch()

    def forward(self, x):
        x = x + self.f(x)
        x = x + self.f(x)
        return x + self.g(x)


def test_a_shared_block_has_all_of_its_sums_gated_or_none():
    model, x = randomise(StemAndBody(SharedBlock())), torch.randn(2, 3, 12, 12)
    ab.boost(model, "ab", example=PICTURE)
    names = set(attached(model))
    assert "body.g.4" in names
    assert names <= {"body.g.4", "body.f.4"}
    shut(model)
    with torch.no_grad():
        y = model.stem(x)
        if "body.f.4" not in names:
            y = y + model.body.f(y)
            y = y + model.body.f(y)
        torch.testing.assert_close(model(x), y)


def networks():
    tv = pytest.importorskip("torchvision").models
    return {
        "quantisable resnet18": (
            lambda: tv.quantization.resnet18(weights=None, quantize=False),
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


@pytest.mark.parametrize("name", ["quantisable resnet18", "fasterrcnn"])
def test_networks_of_torchvision(name):
    build, example, expected = networks()[name]
    assert len(names(build(), example)) == expected

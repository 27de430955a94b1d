"""Sites come from the flow of data: the right number in every family, and each is the right one.

A gate that is shut must leave the shortcut alone, whatever the network's code looks like.
"""

# N batch, C channels, H W space

from __future__ import annotations

import copy
import operator

import pytest
import timm
import torch
import torch.nn.functional as F
import torchvision
from timm.layers import DropPath, LayerNorm2d
from torch import nn
from torch.overrides import TorchFunctionMode
from torch.utils.checkpoint import checkpoint
from torchvision.ops import StochasticDepth

import accuracy_booster as ab
from accuracy_booster.surgery import attached

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


@pytest.fixture(autouse=True)
def _seed():
    torch.manual_seed(0)


def build(name):
    library, _, name_there = name.partition("/")
    options = OPTIONS.get(name, {})
    if library == "timm":
        return timm.create_model(name_there, **options)
    return torchvision.models.get_model(name_there, weights=None, **options)


def randomise(model):
    """Norms, running statistics, layer scales and skip gains as in a trained network."""
    with torch.no_grad():
        for name, value in model.named_parameters():
            if name.endswith("bias"):
                value.normal_(0, 0.1)
            elif value.ndim <= 1 or value.numel() == 1 or (value == value.flatten()[0]).all():
                value.uniform_(0.5, 1.5)
        for name, value in model.named_buffers():
            if name.endswith("running_mean"):
                value.normal_(0, 0.1)
            elif name.endswith("running_var"):
                value.uniform_(0.5, 1.5)
    return model


def shut(model):
    """Every gate gives exactly zero in eval mode."""
    with torch.no_grad():
        for gate in attached(model).values():
            gate[-1].bn.weight.zero_()
            gate[-1].bn.bias.fill_(-1e4)
    return model.eval()


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


# --- families -------------------------------------------------------------------------------------


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


# --- networks by hand -----------------------------------------------------------------------------

C = 8


def conv(inputs=C, outputs=C, kernel=3, stride=1, **options):
    return nn.Conv2d(inputs, outputs, kernel, stride, kernel // 2, **options)


def branch(inputs=C, outputs=C, stride=1, last=()):
    """0 conv, 1 norm, 2 ReLU, 3 conv, 4 norm, 5... `last`."""
    first = [conv(inputs, outputs, stride=stride), nn.BatchNorm2d(outputs), nn.ReLU()]
    return nn.Sequential(*first, conv(outputs, outputs), nn.BatchNorm2d(outputs), *last)


class Body(nn.Module):
    """A residual block; `skip` is what it gives with its branches shut, `sites` their ends."""

    sites: tuple[str, ...] = ("f.4",)

    def __init__(self):
        super().__init__()
        self.f = branch()

    def forward(self, x):
        return x + self.f(x)

    def skip(self, x):
        return x


class BranchFirst(Body):
    def forward(self, x):
        return self.f(x) + x


class InPlace(Body):
    def forward(self, x):
        x += self.f(x)
        return x


class InPlaceOnTheBranch(Body):
    def forward(self, x):
        y = self.f(x)
        y += x
        return F.relu(y, inplace=True)

    def skip(self, x):
        return F.relu(x)


class TorchAdd(Body):
    def forward(self, x):
        return torch.add(x, self.f(x))


class TorchAddAlpha(Body):
    def forward(self, x):
        return torch.add(x, self.f(x), alpha=0.3)


class OperatorAdd(Body):
    def forward(self, x):
        return operator.add(x, self.f(x))


class OperatorIadd(Body):
    def forward(self, x):
        return operator.iadd(x, self.f(x))


class MethodAdd(Body):
    def forward(self, x):
        return self.f(x).add(x)


class MethodAddInPlace(Body):
    def forward(self, x):
        return self.f(x).add_(x)


class BuiltinSum(Body):
    def forward(self, x):
        return sum((x, self.f(x)))


class KeywordAdd(Body):
    def forward(self, x):
        return torch.add(input=x, other=self.f(x))


class FunctionalReluEnds(Body):
    """The block ends in a function, and so does the branch."""

    def forward(self, x):
        return F.relu(x + F.relu(self.f(x)))

    def skip(self, x):
        return F.relu(x)


class EndsInGelu(Body):
    def forward(self, x):
        return x + F.gelu(self.f(x))


class EndsInPooling(Body):
    def forward(self, x):
        return F.avg_pool2d(x, 2) + F.max_pool2d(self.f(x), 2)

    def skip(self, x):
        return F.avg_pool2d(x, 2)


class SharedRelu(Body):
    sites = ("bn2",)

    def __init__(self):
        nn.Module.__init__(self)
        self.conv1, self.bn1 = conv(), nn.BatchNorm2d(C)
        self.conv2, self.bn2 = conv(), nn.BatchNorm2d(C)
        self.relu = nn.ReLU(inplace=True)

    def forward(self, x):
        y = self.relu(self.bn1(self.conv1(x)))
        y = self.relu(self.bn2(self.conv2(y)))
        return self.relu(y + x)

    def skip(self, x):
        return torch.relu(x)


class Nested(Body):
    """A residual block inside the branch of another."""

    sites = ("f.1.f.4", "f.3")

    def __init__(self):
        nn.Module.__init__(self)
        self.f = nn.Sequential(conv(), Body(), nn.ReLU(), conv())


class NestedAtTheEnd(Body):
    """The branch ends in a residual block, so that block's output is gated too."""

    sites = ("f.1.f.4", "f.1")

    def __init__(self):
        nn.Module.__init__(self)
        self.f = nn.Sequential(conv(), Body())


class NestedAtTheStart(Body):
    """The shortcut of the inner block is the shortcut of the outer one."""

    sites = ("f.0.f.4", "f.2")

    def __init__(self):
        nn.Module.__init__(self)
        self.f = nn.Sequential(Body(), nn.ReLU(), conv())


class LayerScale(Body):
    def __init__(self):
        super().__init__()
        self.gamma = nn.Parameter(torch.full((C, 1, 1), 0.1))

    def forward(self, x):
        return x + self.gamma * self.f(x)


class LayerScaleModule(Body):
    class Scale(nn.Module):
        def __init__(self):
            super().__init__()
            self.gamma = nn.Parameter(torch.full((1, C, 1, 1), 0.1))

        def forward(self, x):
            return x.mul_(self.gamma)

    def __init__(self):
        super().__init__()
        self.f.append(self.Scale())
        self.f.append(DropPath(0.5))


class ReZero(Body):
    def __init__(self):
        super().__init__()
        self.alpha = nn.Parameter(torch.tensor(0.5))

    def forward(self, x):
        return x + self.f(x) * self.alpha


class EndsInStochasticDepth(Body):
    def __init__(self):
        super().__init__()
        self.f = branch(last=[StochasticDepth(0.5, "row")])


class EndsInDropPath(Body):
    def __init__(self):
        super().__init__()
        self.f, self.drop = branch(), DropPath(0.5)

    def forward(self, x):
        return x + self.drop(self.f(x))


class EndsInDropout(Body):
    def __init__(self):
        super().__init__()
        self.f = branch(last=[nn.Dropout2d(0.5)])


class EndsInFunctionalDropout(Body):
    def forward(self, x):
        return x + F.dropout(self.f(x), 0.5, self.training)


class ControlFlow(Body):
    """Loops, conditions on shapes and on values."""

    sites = ("blocks.0.4", "blocks.1.4", "blocks.2.4")

    def __init__(self):
        nn.Module.__init__(self)
        self.blocks = nn.ModuleList([branch(), branch(C, 2 * C, 2), branch(2 * C, 2 * C)])
        self.proj = conv(C, 2 * C, 1, 2)

    def forward(self, x):
        for f in self.blocks:
            y = f(x)
            if y.shape != x.shape:
                x = self.proj(x)
            x = x + y if float(x.detach().mean()) < 1e9 else x - y
        return x

    def skip(self, x):
        return self.proj(x)


class BranchIsChecked(Body):
    """A condition reads the branch; nothing of it goes on."""

    def forward(self, x):
        y = self.f(x)
        return x + y if bool(y.isfinite().all()) else x


class Preactivation(Body):
    sites = ("conv2", "f.5")

    def __init__(self):
        nn.Module.__init__(self)
        self.bn1, self.conv1 = nn.BatchNorm2d(C), conv(C, 2 * C, 3, 2)
        self.bn2, self.conv2 = nn.BatchNorm2d(2 * C), conv(2 * C, 2 * C)
        self.proj = conv(C, 2 * C, 1, 2)
        norm, relu = nn.BatchNorm2d, nn.ReLU
        wide = 2 * C
        self.f = nn.Sequential(
            norm(wide), relu(), conv(wide, C), norm(C), relu(inplace=True), conv(C, wide)
        )

    def forward(self, x):
        o = F.relu(self.bn1(x))
        x = self.proj(o) + self.conv2(F.relu(self.bn2(self.conv1(o))))
        return x + self.f(x)

    def skip(self, x):
        return self.proj(F.relu(self.bn1(x)))


class InPlaceReluFirst(Body):
    """The first ReLU of the branch overwrites the shortcut too (Xception)."""

    sites = ("f.3",)

    def __init__(self):
        nn.Module.__init__(self)
        self.f = nn.Sequential(nn.ReLU(inplace=True), conv(), nn.ReLU(inplace=True), conv())

    def skip(self, x):
        return F.relu(x)


class PooledProjection(Body):
    def __init__(self):
        nn.Module.__init__(self)
        self.f = branch(C, 2 * C, 2)
        pool = nn.AvgPool2d(2, 2, ceil_mode=True, count_include_pad=False)
        self.down = nn.Sequential(pool, conv(C, 2 * C, 1), nn.BatchNorm2d(2 * C))

    def forward(self, x):
        return self.down(x) + self.f(x)

    def skip(self, x):
        return self.down(x)


class OptionA(Body):
    def __init__(self):
        nn.Module.__init__(self)
        self.f = branch(C, 2 * C, 2)

    def forward(self, x):
        return self.skip(x) + self.f(x)

    def skip(self, x):
        return F.pad(x[:, :, ::2, ::2], (0, 0, 0, 0, C // 2, C // 2))


class ZerosConcatenated(OptionA):
    """Option A with `torch.cat` and zeros (chenyaofo, PyramidNet)."""

    def skip(self, x):
        x = F.avg_pool2d(x, 2)
        return torch.cat((x, torch.zeros_like(x)), 1)


class ZerosByProduct(OptionA):
    """Option A as DownsampleA of ResNeXt.pytorch writes it."""

    def skip(self, x):
        x = F.avg_pool2d(x, 2)
        return torch.cat((x, x.mul(0)), 1)


class ZerosAllocated(OptionA):
    """Option A with zeros that come from no tensor (wide-resnet codes)."""

    def skip(self, x):
        x = F.avg_pool2d(x, 2)
        return torch.cat((x, torch.zeros(*x.shape, device=x.device)), 1)


class ChannelsLastBranch(Body):
    """ConvNeXt: layers over the last dimension, layer scale, permuted back."""

    sites = ("fc2",)

    def __init__(self):
        nn.Module.__init__(self)
        self.dw, self.norm = conv(groups=C), nn.LayerNorm(C)
        self.fc1, self.fc2 = nn.Linear(C, 4 * C), nn.Linear(4 * C, C)
        self.gamma = nn.Parameter(torch.full((C,), 0.1))

    def forward(self, x):
        y = self.norm(self.dw(x).permute(0, 2, 3, 1))
        y = self.gamma * self.fc2(F.gelu(self.fc1(y)))
        return x + y.permute(0, 3, 1, 2)


class ChannelsLastSum(Body):
    """The sum itself is in NHWC."""

    sites = ("fc2",)

    def __init__(self):
        nn.Module.__init__(self)
        self.dw = conv(groups=C)
        self.fc1, self.fc2 = nn.Linear(C, 4 * C), nn.Linear(4 * C, C)

    def forward(self, x):
        x = x.permute(0, 2, 3, 1)
        y = self.dw(x.permute(0, 3, 1, 2)).permute(0, 2, 3, 1)
        return (x + self.fc2(F.gelu(self.fc1(y)))).permute(0, 3, 1, 2)


class SmallGroupNorm(Body):
    """No batch norm anywhere; the branch ends in a LayerNorm2d."""

    sites = ("f.3",)

    def __init__(self):
        nn.Module.__init__(self)
        self.f = nn.Sequential(conv(), nn.GELU(), conv(), LayerNorm2d(C))


class FunctionalSE(Body):
    def __init__(self):
        super().__init__()
        self.fc = conv(C, C, 1)

    def forward(self, x):
        y = self.f(x)
        return x + y * torch.sigmoid(self.fc(y.mean((2, 3), keepdim=True)))


class Checkpointed(Body):
    reentrant = False

    def forward(self, x):
        return x + checkpoint(self.f, x, use_reentrant=self.reentrant)


class CheckpointedReentrant(Checkpointed):
    reentrant = True


class CheckpointedBlock(Body):
    def forward(self, x):
        return checkpoint(lambda y: y + self.f(y), x, use_reentrant=False)


class ShuffleV1(Body):
    """A strided unit that concatenates the pooled input, then one that adds."""

    sites = ("f.4", "g.4")

    def __init__(self):
        nn.Module.__init__(self)
        self.f, self.g = branch(C, C, 2), branch(2 * C, 2 * C)

    def forward(self, x):
        x = F.relu(torch.cat((F.avg_pool2d(x, 3, 2, 1), self.f(x)), 1))
        return F.relu(x + self.g(x))

    def skip(self, x):
        pooled = F.avg_pool2d(x, 3, 2, 1)
        return F.relu(torch.cat((pooled, torch.zeros_like(pooled)), 1))


class ShuffleV2(Body):
    sites = ("f.4",)  # the norm: a gate stands before a branch's last activation

    def __init__(self):
        nn.Module.__init__(self)
        self.f = branch(C // 2, C // 2, last=[nn.ReLU()])

    def forward(self, x):
        a, b = x.chunk(2, 1)
        return self.shuffle(torch.cat((a, self.f(b)), 1))

    def skip(self, x):
        a, b = x.chunk(2, 1)
        return self.shuffle(torch.cat((a, torch.zeros_like(b)), 1))

    @staticmethod
    def shuffle(x):
        n, c, h, w = x.shape
        return x.view(n, 2, c // 2, h, w).transpose(1, 2).reshape(n, c, h, w)


class PartialChannels(Body):
    """The sum covers the first channels only (ReXNet)."""

    def __init__(self):
        nn.Module.__init__(self)
        self.f = branch(C, C + 4)

    def forward(self, x):
        y = self.f(x)
        return torch.cat((y[:, :C] + x, y[:, C:]), 1)

    def skip(self, x):
        return torch.cat((x, torch.zeros_like(x[:, :4])), 1)


class TupleOut(Body):
    def forward(self, x):
        return x + self.f(x), x

    def skip(self, x):
        return x, x


class DictOut(Body):
    def forward(self, x):
        return {"out": x + self.f(x)}

    def skip(self, x):
        return {"out": x}


class BlockTakesTuple(Body):
    class Inner(nn.Module):
        def __init__(self):
            super().__init__()
            self.f = branch()

        def forward(self, pair):
            x, extra = pair
            return x + self.f(x), {"extra": extra}

    sites = ("inner.f.4",)

    def __init__(self):
        nn.Module.__init__(self)
        self.inner = self.Inner()

    def forward(self, x):
        return self.inner((x, 3))[0]


@torch.jit.script
def scripted_swish(x):
    return x * torch.sigmoid(x)


class ScriptedActivation(Body):
    """The activation is a scripted module."""

    def __init__(self):
        nn.Module.__init__(self)
        self.f = branch()
        self.f[2] = torch.jit.script(nn.SiLU())


class ScriptedFunctionInAModule(Body):
    class Swish(nn.Module):
        def forward(self, x):
            return scripted_swish(x)

    def __init__(self):
        nn.Module.__init__(self)
        self.f = branch()
        self.f[2] = self.Swish()


class ScriptedFunctionInTheBlock(Body):
    sites = ("conv2",)

    def __init__(self):
        nn.Module.__init__(self)
        self.conv1, self.conv2 = conv(), conv()

    def forward(self, x):
        return x + self.conv2(scripted_swish(self.conv1(x)))


class OwnAutograd(Body):
    class Swish(torch.autograd.Function):
        @staticmethod
        def forward(ctx, x):
            ctx.save_for_backward(x)
            return x * torch.sigmoid(x)

        @staticmethod
        def backward(ctx, g):
            (x,) = ctx.saved_tensors
            s = torch.sigmoid(x)
            return g * (s + x * s * (1 - s))

    class Act(nn.Module):
        def forward(self, x):
            return OwnAutograd.Swish.apply(x)

    def __init__(self):
        super().__init__()
        self.f[2] = self.Act()


class PostNorm(Body):
    sites = ("f.2",)

    def __init__(self):
        nn.Module.__init__(self)
        self.f, self.norm = nn.Sequential(conv(), nn.ReLU(), conv()), nn.BatchNorm2d(C)

    def forward(self, x):
        return self.norm(x + self.f(x))

    def skip(self, x):
        return self.norm(x)


BODIES = [
    *[Body, BranchFirst, InPlace, InPlaceOnTheBranch, TorchAdd, TorchAddAlpha, OperatorAdd],
    *[OperatorIadd, MethodAdd, MethodAddInPlace, BuiltinSum, KeywordAdd, FunctionalReluEnds],
    *[EndsInGelu, EndsInPooling, SharedRelu, Nested, NestedAtTheEnd, NestedAtTheStart],
    *[LayerScale, LayerScaleModule, ReZero, EndsInStochasticDepth, EndsInDropPath, EndsInDropout],
    *[EndsInFunctionalDropout, ControlFlow, Preactivation, InPlaceReluFirst, PooledProjection],
    *[OptionA, ZerosConcatenated, ZerosByProduct, ZerosAllocated, BranchIsChecked],
    *[ChannelsLastBranch, ChannelsLastSum, SmallGroupNorm],
    *[FunctionalSE, Checkpointed, CheckpointedReentrant, CheckpointedBlock, ShuffleV1, ShuffleV2],
    *[PartialChannels, TupleOut, DictOut, BlockTakesTuple, ScriptedActivation],
    *[ScriptedFunctionInAModule, ScriptedFunctionInTheBlock, OwnAutograd, PostNorm],
]


class Net(nn.Module):
    """A stem that gives C channels, then the body."""

    def __init__(self, body):
        super().__init__()
        self.stem = conv(3, C)
        self.body = body

    def forward(self, x):
        return self.body(self.stem(x))


EXAMPLE = torch.zeros(1, 3, 12, 12)


@pytest.mark.parametrize("kind", BODIES, ids=lambda kind: kind.__name__)
@pytest.mark.filterwarnings("ignore:.*attention:UserWarning")
def test_a_shut_gate_leaves_the_shortcut_alone(kind):
    model, x = randomise(Net(kind())), torch.randn(2, 3, 12, 12)
    plain = model.eval()(x)
    planned = ab.plan(model, "ab", example=EXAMPLE)
    assert {g.site.name for g in planned.gates} == {f"body.{name}" for name in kind.sites}
    ab.boost(model, "ab", example=EXAMPLE)
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
    model, x = randomise(Net(kind())), torch.randn(4, 3, 12, 12)
    gated = ab.boost(copy.deepcopy(model), "ab", example=EXAMPLE, init="identity")
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
    model = ab.boost(randomise(Net(kind())).train(), "ab", example=EXAMPLE)
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
    model, x = randomise(Net(SharedBlock())), torch.randn(2, 3, 12, 12)
    ab.boost(model, "ab", example=EXAMPLE)
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


class TwoConvs(Body):
    def __init__(self):
        nn.Module.__init__(self)
        self.a = nn.Sequential(conv(), nn.BatchNorm2d(C))
        self.b = nn.Sequential(conv(C, C, 1), nn.BatchNorm2d(C))

    def forward(self, x):
        return F.relu(self.a(x) + self.b(x))


class TwoBranches(Body):
    """Neither side is a shortcut."""

    def __init__(self):
        super().__init__()
        self.g = branch()

    def forward(self, x):
        return self.f(x) + self.g(x)


class RepVGG(TwoConvs):
    def __init__(self):
        super().__init__()
        self.norm = nn.BatchNorm2d(C)

    def forward(self, x):
        return F.relu(self.a(x) + self.b(x) + self.norm(x))


class RepVGGPlain(TwoConvs):
    """The identity first, and without a norm."""

    def forward(self, x):
        return F.relu(x + self.a(x) + self.b(x))


class Pyramid(Body):
    def __init__(self):
        nn.Module.__init__(self)
        self.stage1 = nn.Sequential(conv(stride=2), nn.BatchNorm2d(C), nn.ReLU())
        self.stage2 = nn.Sequential(conv(stride=2), nn.BatchNorm2d(C), nn.ReLU())
        self.lateral = nn.ModuleList(conv(C, C, 1) for _ in range(3))
        self.smooth = conv()

    def forward(self, x):
        c1 = self.stage1(x)
        c2 = self.stage2(c1)
        p2 = self.lateral[2](c2)
        p1 = self.lateral[1](c1) + F.interpolate(p2, size=c1.shape[2:], mode="nearest")
        p0 = self.lateral[0](x) + F.interpolate(p1, scale_factor=2.0, mode="bilinear")
        return self.smooth(p0), self.smooth(p1)


class UNet(Body):
    def __init__(self):
        nn.Module.__init__(self)
        self.down = nn.Sequential(nn.MaxPool2d(2), conv(), nn.ReLU(), conv(), nn.ReLU())
        self.up = nn.ConvTranspose2d(C, C, 2, 2)
        self.last = conv(2 * C, C)

    def forward(self, x):
        return self.last(torch.cat((x, self.up(self.down(x))), 1))


class UNetUpsample(UNet):
    def forward(self, x):
        y = F.interpolate(self.down(x), scale_factor=2, mode="bilinear")
        return self.last(torch.cat((y, x), 1))


class Dense(Body):
    def __init__(self):
        nn.Module.__init__(self)
        self.f, self.g = branch(), branch(2 * C, C)

    def forward(self, x):
        x = torch.cat((x, self.f(x)), 1)
        return torch.cat((x, self.g(x)), 1)


class Inception(Body):
    def __init__(self):
        super().__init__()
        self.g = branch()

    def forward(self, x):
        return torch.cat((self.f(x), self.g(x), F.max_pool2d(x, 3, 1, 1)), 1)


class Positions(Body):
    """A sum with a parameter is no residual sum."""

    def __init__(self):
        super().__init__()
        self.position = nn.Parameter(torch.zeros(1, C, 12, 12))

    def forward(self, x):
        return self.f(x) + self.position


class Gated(Body):
    """SE alone: a product, and the sum inside is of its two descriptors."""

    def __init__(self):
        nn.Module.__init__(self)
        self.fc = nn.Sequential(conv(C, C, 1), nn.ReLU(), conv(C, C, 1))

    def forward(self, x):
        a, m = self.fc(F.adaptive_avg_pool2d(x, 1)), self.fc(F.adaptive_max_pool2d(x, 1))
        return x * torch.sigmoid(a + m)


NOT_RESIDUAL = [
    *[TwoConvs, TwoBranches, RepVGG, RepVGGPlain, Pyramid, UNet, UNetUpsample, Dense, Inception],
    *[Positions, Gated],
]


@pytest.mark.parametrize("kind", NOT_RESIDUAL, ids=lambda kind: kind.__name__)
def test_other_sums_and_concatenations_are_no_sites(kind):
    model = Net(kind())
    with pytest.raises(ValueError, match="no residual branch"):
        ab.plan(model, "ab", example=EXAMPLE)


class FunctionsOnly(Body):
    """The branch has no module at all."""

    def __init__(self):
        nn.Module.__init__(self)
        self.w1 = nn.Parameter(torch.randn(C, C, 3, 3))
        self.w2 = nn.Parameter(torch.randn(C, C, 3, 3))

    def forward(self, x):
        return x + F.conv2d(F.relu(F.conv2d(x, self.w1, padding=1)), self.w2, padding=1)


def test_a_branch_without_modules_is_told_apart_from_no_branch():
    with pytest.raises(ValueError, match=r"residual branches, but .*no module.*name modules"):
        ab.plan(Net(FunctionsOnly()), "ab", example=EXAMPLE)
    model = Net(nn.Sequential(FunctionsOnly(), Body()))
    planned = ab.plan(model, "ab", example=EXAMPLE)
    assert [gate.site.name for gate in planned.gates] == ["body.1.f.4"]
    assert len(planned.skipped) == 1
    assert "skipped" in str(planned)


class EndsInFunctionalNorm(Body):
    """The branch's last layer is a function; a gate before it would be normalised away."""

    def __init__(self):
        nn.Module.__init__(self)
        self.f = nn.Sequential(conv(), nn.ReLU(), conv())
        self.weight, self.bias = nn.Parameter(torch.ones(C)), nn.Parameter(torch.ones(C))

    def forward(self, x):
        return x + F.group_norm(self.f(x), 1, self.weight, self.bias)


class EndsInFunctionalConv(Body):
    def __init__(self):
        nn.Module.__init__(self)
        self.f = nn.Sequential(conv(), nn.ReLU())
        self.weight, self.bias = nn.Parameter(torch.randn(C, C, 1, 1)), nn.Parameter(torch.ones(C))

    def forward(self, x):
        return x + F.conv2d(self.f(x), self.weight, self.bias)


class EndsInSigmoid(Body):
    """A gate before it could not shut the branch."""

    def forward(self, x):
        return x + torch.sigmoid(self.f(x))


@pytest.mark.parametrize("kind", [EndsInFunctionalNorm, EndsInFunctionalConv, EndsInSigmoid])
def test_a_gate_that_could_not_shut_its_branch_is_not_placed(kind):
    model, x = randomise(Net(kind())), torch.randn(2, 3, 12, 12)
    try:
        ab.boost(model, "ab", example=EXAMPLE)
    except ValueError:
        return
    with torch.no_grad():
        torch.testing.assert_close(shut(model)(x), model.stem(x))


def test_a_branch_that_something_else_reads_is_not_gated_silently():
    """A gate there would change a second output; name the module to gate it all the same."""

    class TwoReaders(Body):
        def forward(self, x):
            y = self.f(x)
            return x + y, y.mean((2, 3))

    model = Net(TwoReaders())
    try:
        planned = ab.plan(model, "ab", example=EXAMPLE)
    except ValueError:
        return
    assert planned.skipped or [g.site.name for g in planned.gates] == ["body.f.4"]


def test_finding_leaves_the_example_of_an_in_place_network_alone():

    class First(Body):
        def forward(self, x):
            x += self.f(x)
            return x

    model, example = First(), torch.ones(1, C, 6, 6)
    kept = example.clone()
    ab.plan(model, "ab", example=example)
    assert torch.equal(example, kept)

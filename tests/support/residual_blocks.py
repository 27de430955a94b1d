"""Residual blocks as people write them, each with the sites of its branches and its shortcut.

`sites` names the modules whose output a gate scales. `skip` is what is left of the block with its
gates shut.
"""

# N batch, C channels, H W space

from __future__ import annotations

import operator

import torch
import torch.nn.functional as F
from timm.layers import DropPath, LayerNorm2d
from torch import nn
from torch.utils.checkpoint import checkpoint
from torchvision.ops import StochasticDepth

WIDTH = 8


def conv(inputs=WIDTH, outputs=WIDTH, kernel=3, stride=1, **options):
    return nn.Conv2d(inputs, outputs, kernel, stride, kernel // 2, **options)


def branch(inputs=WIDTH, outputs=WIDTH, stride=1, last=()):
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
        self.conv1, self.bn1 = conv(), nn.BatchNorm2d(WIDTH)
        self.conv2, self.bn2 = conv(), nn.BatchNorm2d(WIDTH)
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
        self.gamma = nn.Parameter(torch.full((WIDTH, 1, 1), 0.1))

    def forward(self, x):
        return x + self.gamma * self.f(x)


class LayerScaleModule(Body):
    class Scale(nn.Module):
        def __init__(self):
            super().__init__()
            self.gamma = nn.Parameter(torch.full((1, WIDTH, 1, 1), 0.1))

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
        self.blocks = nn.ModuleList(
            [branch(), branch(WIDTH, 2 * WIDTH, 2), branch(2 * WIDTH, 2 * WIDTH)]
        )
        self.proj = conv(WIDTH, 2 * WIDTH, 1, 2)

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
        self.bn1, self.conv1 = nn.BatchNorm2d(WIDTH), conv(WIDTH, 2 * WIDTH, 3, 2)
        self.bn2, self.conv2 = nn.BatchNorm2d(2 * WIDTH), conv(2 * WIDTH, 2 * WIDTH)
        self.proj = conv(WIDTH, 2 * WIDTH, 1, 2)
        norm, relu = nn.BatchNorm2d, nn.ReLU
        wide = 2 * WIDTH
        self.f = nn.Sequential(
            norm(wide),
            relu(),
            conv(wide, WIDTH),
            norm(WIDTH),
            relu(inplace=True),
            conv(WIDTH, wide),
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
        self.f = branch(WIDTH, 2 * WIDTH, 2)
        pool = nn.AvgPool2d(2, 2, ceil_mode=True, count_include_pad=False)
        self.down = nn.Sequential(pool, conv(WIDTH, 2 * WIDTH, 1), nn.BatchNorm2d(2 * WIDTH))

    def forward(self, x):
        return self.down(x) + self.f(x)

    def skip(self, x):
        return self.down(x)


class OptionA(Body):
    def __init__(self):
        nn.Module.__init__(self)
        self.f = branch(WIDTH, 2 * WIDTH, 2)

    def forward(self, x):
        return self.skip(x) + self.f(x)

    def skip(self, x):
        return F.pad(x[:, :, ::2, ::2], (0, 0, 0, 0, WIDTH // 2, WIDTH // 2))


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
        self.dw, self.norm = conv(groups=WIDTH), nn.LayerNorm(WIDTH)
        self.fc1, self.fc2 = nn.Linear(WIDTH, 4 * WIDTH), nn.Linear(4 * WIDTH, WIDTH)
        self.gamma = nn.Parameter(torch.full((WIDTH,), 0.1))

    def forward(self, x):
        y = self.norm(self.dw(x).permute(0, 2, 3, 1))
        y = self.gamma * self.fc2(F.gelu(self.fc1(y)))
        return x + y.permute(0, 3, 1, 2)


class ChannelsLastSum(Body):
    """The sum itself is in NHWC."""

    sites = ("fc2",)

    def __init__(self):
        nn.Module.__init__(self)
        self.dw = conv(groups=WIDTH)
        self.fc1, self.fc2 = nn.Linear(WIDTH, 4 * WIDTH), nn.Linear(4 * WIDTH, WIDTH)

    def forward(self, x):
        x = x.permute(0, 2, 3, 1)
        y = self.dw(x.permute(0, 3, 1, 2)).permute(0, 2, 3, 1)
        return (x + self.fc2(F.gelu(self.fc1(y)))).permute(0, 3, 1, 2)


class SmallGroupNorm(Body):
    """No batch norm anywhere; the branch ends in a LayerNorm2d."""

    sites = ("f.3",)

    def __init__(self):
        nn.Module.__init__(self)
        self.f = nn.Sequential(conv(), nn.GELU(), conv(), LayerNorm2d(WIDTH))


class FunctionalSE(Body):
    def __init__(self):
        super().__init__()
        self.fc = conv(WIDTH, WIDTH, 1)

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
        self.f, self.g = branch(WIDTH, WIDTH, 2), branch(2 * WIDTH, 2 * WIDTH)

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
        self.f = branch(WIDTH // 2, WIDTH // 2, last=[nn.ReLU()])

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
        self.f = branch(WIDTH, WIDTH + 4)

    def forward(self, x):
        y = self.f(x)
        return torch.cat((y[:, :WIDTH] + x, y[:, WIDTH:]), 1)

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
        self.f, self.norm = nn.Sequential(conv(), nn.ReLU(), conv()), nn.BatchNorm2d(WIDTH)

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


class StemAndBody(nn.Module):
    """A stem that gives C channels, then the body."""

    def __init__(self, body):
        super().__init__()
        self.stem = conv(3, WIDTH)
        self.body = body

    def forward(self, x):
        return self.body(self.stem(x))


PICTURE = torch.zeros(1, 3, 12, 12)

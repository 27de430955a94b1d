"""Branches that end in something else than a norm or convolution, with a gate at their end."""

# N batch, C channels, H W space

from __future__ import annotations

import timm.layers
from timm.models.convnext import ConvNeXtBlock
from torch import nn
from torchvision.ops import Conv2dNormActivation

from support.folded_networks import OneBranch, boosted

C = 8


class EndsIn(OneBranch):
    """A branch that ends in a module; the sum and the ReLU come next."""

    def __init__(self, end):
        super().__init__()
        self.end = end

    def branch(self, x):
        return self.end(super().branch(x))


class LastChannels(OneBranch):
    """A branch of a linear layer on maps whose channels come last, as in ConvNeXt."""

    def __init__(self):
        super().__init__()
        self.end = nn.Linear(C, C)

    def branch(self, x):
        return self.end(super().branch(x).permute(0, 2, 3, 1)).permute(0, 3, 1, 2)


class Twice(EndsIn):
    """Its last module runs twice in a pass."""

    def branch(self, x):
        return self.end(self.conv2(self.end(OneBranch.branch(self, x))))


class Hooked(EndsIn):
    """The norm at its end has a hook."""

    def __init__(self):
        super().__init__(nn.BatchNorm2d(C))
        self.end.register_forward_hook(lambda module, args, output: 2 * output)


# {what stands before the gate: (how the network is built, the site, whether the sum joins)}
SITES = {
    "activation": (lambda: EndsIn(nn.SiLU()), "end", True),
    "torchvision's conv, norm, activation": (
        lambda: EndsIn(Conv2dNormActivation(C, C, activation_layer=nn.Hardswish)),
        "end",
        True,
    ),
    "timm's conv, norm, activation": (
        lambda: EndsIn(timm.layers.ConvNormAct(C, C, 3, act_layer=nn.SiLU)),
        "end",
        True,
    ),
    "timm's norm with activation": (
        lambda: EndsIn(timm.layers.BatchNormAct2d(C, act_layer=nn.SiLU)),
        "end",
        True,
    ),
    "timm's norm with activation after a convolution": (
        lambda: OneBranch(norm=timm.layers.BatchNormAct2d(C, act_layer=nn.SiLU)),
        "bn2",
        True,
    ),
    "timm's SE with a maximum": (
        lambda: EndsIn(timm.layers.SEModule(C, rd_channels=4, add_maxpool=True)),
        "end",
        True,
    ),
    "group norm": (lambda: EndsIn(nn.GroupNorm(2, C)), "end", True),
    "layer norm": (lambda: EndsIn(timm.layers.LayerNorm2d(C)), "end", True),
    "norm with a hook": (Hooked, "end", False),
    "identity": (lambda: EndsIn(nn.Identity()), "end", False),
    "module that runs twice": (lambda: Twice(nn.SiLU()), "end", False),
    "channels last": (LastChannels, "end", False),
    "ConvNeXt's block": (lambda: EndsIn(ConvNeXtBlock(C, conv_mlp=False)), "end.mlp", False),
}


def network_at(name, recipe="ab", **options):
    """(the boosted network, images, the site) for a key of SITES, in float64 and eval mode."""
    build, site, _ = SITES[name]
    model, x = boosted(build(), recipe, where=[site], **options)
    return model, x, site

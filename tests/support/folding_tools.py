"""A network and a tool that prepares it for inference by folding norms, as ultralytics does."""

from __future__ import annotations

from typing import TypeVar

from torch import nn
from torch.nn.utils.fusion import fuse_conv_bn_weights

Network = TypeVar("Network", bound=nn.Module)


class Unit(nn.Module):
    """A convolution, its norm and an activation."""

    def __init__(self, channels: int = 4):
        super().__init__()
        self.conv = nn.Conv2d(channels, channels, 3, padding=1, bias=False)
        self.bn, self.act = nn.BatchNorm2d(channels), nn.SiLU()

    def forward(self, x):
        return self.act(self.bn(self.conv(x)))

    def forward_fuse(self, x):
        return self.act(self.conv(x))


class Residual(nn.Module):
    """A residual block of two units. Its gate is on the norm of the second."""

    def __init__(self, channels: int = 4):
        super().__init__()
        self.one, self.two = Unit(channels), Unit(channels)

    def forward(self, x):
        return x + self.two(self.one(x))


def fold_units(model: Network) -> Network:
    """Fold each norm into its convolution, in place, delete it, and set another forward."""
    for unit in model.modules():
        if isinstance(unit, Unit) and "bn" in unit._modules:
            conv, norm = unit.conv, unit.bn
            conv.weight, conv.bias = fuse_conv_bn_weights(
                conv.weight,
                conv.bias,
                norm.running_mean,
                norm.running_var,
                norm.eps,
                norm.weight,
                norm.bias,
            )
            conv.requires_grad_(False)
            del unit.bn
            unit.forward = unit.forward_fuse
    return model

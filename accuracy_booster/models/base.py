"""What every network of ours has in common: timm's conventions for the head and the features."""

# N batch, C channels, H W space

from __future__ import annotations

import math

import torch
from torch import nn

# What a name of ours may ask for: more than was published (ResNet-1202, WRN-40-14)
MAX_DEPTH = 2000
MAX_WEIGHTS = 250_000_000  # 1 GB; a training takes at least three times that


def check_size(what: str, depth: int, weights: int) -> None:
    """Raise ValueError, before anything is built, for a network that no machine would train.

    Args:
        what: the network in the error, such as "depth=16, width=9".
        depth: of the network, in layers.
        weights: about how many it has.
    """
    if depth > MAX_DEPTH:
        raise ValueError(f"{what}: the depth must be <= {MAX_DEPTH:,}")
    if weights > MAX_WEIGHTS:
        about = f"{weights:.2g}" if weights < 10**300 else "more than 1e300"
        raise ValueError(
            f"{what}: that is about {about} weights, and a network may have up to "
            f"{MAX_WEIGHTS:,}; give a smaller width or depth"
        )


class Network(nn.Module):
    """A plain classification network (no gates) of three stages and a linear head.

    A subclass sets `stem`-like modules, `num_features`, and ends its constructor with `_head`.
    `recalibration_sites` are the names of the last layers of its residual branches: where the
    paper puts its block (section 3: before the summation).
    """

    num_features: int
    num_classes: int
    fc: nn.Module
    default_cfg: dict[str, tuple[int, int, int]]  # {"input_size": (C, H, W)}, as timm's
    last_layer: str  # of a residual block: the name of the branch's last layer

    def _head(self, num_features: int, num_classes: int) -> None:
        self.num_features = num_features
        self.reset_classifier(num_classes)

    def reset_classifier(self, num_classes: int) -> None:
        """A new head of `num_classes` outputs, on the device of the network; 0 removes it."""
        if num_classes < 0:
            raise ValueError(f"num_classes={num_classes} must be >= 0")
        self.num_classes = num_classes
        features = self.num_features
        like = next(self.parameters())
        head = nn.Linear(features, num_classes) if num_classes else nn.Identity()
        self.fc = head.to(device=like.device, dtype=like.dtype)

    def get_classifier(self) -> nn.Module:
        return self.fc

    @property
    def recalibration_sites(self) -> list[str]:
        return [
            f"{name}.{self.last_layer}"
            for name, module in self.named_modules()
            if isinstance(module, ResidualBlock)
        ]

    def forward_features(self, x: torch.Tensor) -> torch.Tensor:
        """x[N, C, H, W] -> the last feature map."""
        raise NotImplementedError

    def forward_head(self, x: torch.Tensor, pre_logits: bool = False) -> torch.Tensor:
        """The last feature map -> logits [N, num_classes], or its mean [N, num_features]."""
        x = x.mean((2, 3))
        return x if pre_logits else self.fc(x)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.forward_head(self.forward_features(x))


class ResidualBlock(nn.Module):
    """Marks the blocks whose branch a gate may scale."""


def initialise_convs(model: nn.Module) -> None:
    """He's initialisation, N(0, 2 / (k * k * outputs / groups)), for convolutions; zero biases."""
    for module in model.modules():
        if isinstance(module, nn.Conv2d):
            fan_out = module.weight[0, 0].numel() * module.out_channels // module.groups
            nn.init.normal_(module.weight, 0.0, math.sqrt(2.0) / math.sqrt(fan_out))
            if module.bias is not None:
                nn.init.zeros_(module.bias)


def conv(
    inputs: int, outputs: int, kernel: int, stride: int = 1, bias: bool = False, *, groups: int = 1
) -> nn.Conv2d:
    return nn.Conv2d(inputs, outputs, kernel, stride, padding=kernel // 2, groups=groups, bias=bias)

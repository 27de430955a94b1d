"""What all networks of ours have in common: timm's conventions for the head and the features."""

# N batch, C channels, H W space

from __future__ import annotations

import math

import torch
from torch import nn

# The largest network that a name may ask for; published ones are smaller (ResNet-1202, WRN-40-14).
MAX_DEPTH = 2000
MAX_WEIGHTS = 250_000_000  # 1 GB; a training takes at least three times as much memory


def check_size(what: str, depth: int, weights: int) -> None:
    """Raise ValueError, before anything is built, if a network is too large to be trained.

    Args:
        what: the name of the network in the error, such as "depth=16, width=9".
        depth: the number of layers.
        weights: about how many weights it has.
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
    """A classification network without gates, which ends in a linear head.

    A subclass makes its layers in its constructor, and calls `_head` at the end.
    """

    num_features: int
    num_classes: int
    fc: nn.Module
    default_cfg: dict[str, tuple[int, int, int]]  # {"input_size": (C, H, W)}, as timm's
    last_layer: str  # the name, in a residual block, of the branch's last layer

    def _head(self, num_features: int, num_classes: int) -> None:
        self.num_features = num_features
        self.reset_classifier(num_classes)

    def reset_classifier(self, num_classes: int) -> None:
        """Make a new head of `num_classes` outputs, on the network's device; 0 removes the head."""
        if num_classes < 0:
            raise ValueError(f"num_classes={num_classes} must be >= 0")
        self.num_classes = num_classes
        features = self.num_features
        like = next(self.parameters())
        head = nn.Linear(features, num_classes) if num_classes else nn.Identity()
        self.fc = head.to(device=like.device, dtype=like.dtype)

    def get_classifier(self) -> nn.Module:
        """The head, under the name that timm gives the method."""
        return self.fc

    @property
    def recalibration_sites(self) -> list[str]:
        """The sites of the paper's block (section 3): the last layers of the residual branches."""
        return [
            f"{name}.{self.last_layer}"
            for name, module in self.named_modules()
            if isinstance(module, ResidualBlock)
        ]

    def forward_features(self, x: torch.Tensor) -> torch.Tensor:
        """x[N, C, H, W] -> the last feature map [N, num_features, *, *]."""
        raise NotImplementedError

    def forward_head(self, x: torch.Tensor, pre_logits: bool = False) -> torch.Tensor:
        """The last feature map -> logits [N, num_classes].

        With `pre_logits` it gives the map's mean, the features [N, num_features].
        """
        x = x.mean((2, 3))
        return x if pre_logits else self.fc(x)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """x[N, C, H, W] -> logits [N, num_classes]."""
        return self.forward_head(self.forward_features(x))


class ResidualBlock(nn.Module):
    """A residual block. `Network` finds its sites by this class."""


def initialise_convs(model: nn.Module) -> None:
    """Initialise convolutions as He et al. 2015: N(0, 2 / (k * k * outputs / groups)), biases 0."""
    for module in model.modules():
        if isinstance(module, nn.Conv2d):
            fan_out = module.weight[0, 0].numel() * module.out_channels // module.groups
            nn.init.normal_(module.weight, 0.0, math.sqrt(2.0) / math.sqrt(fan_out))
            if module.bias is not None:
                nn.init.zeros_(module.bias)


def conv(
    inputs: int, outputs: int, kernel: int, stride: int = 1, bias: bool = False, *, groups: int = 1
) -> nn.Conv2d:
    """A convolution that keeps H and W at stride 1, by default without bias."""
    return nn.Conv2d(inputs, outputs, kernel, stride, padding=kernel // 2, groups=groups, bias=bias)

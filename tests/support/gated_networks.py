"""Networks of ours, torchvision and timm with gates, images for them, and how far two differ."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

import accuracy_booster as ab
from accuracy_booster.models.preact_cifar import PreActResNet
from support.networks import randomise

# {name: the side of its images, the number of its sites}
NETWORKS = {
    "resnet8": (12, 3),
    "wrn10_1": (12, 3),  # pre-activation: a branch ends in a convolution
    "preact11": (12, 3),
    "shufflenet_g3": (32, 16),
    "torchvision/resnet18": (32, 8),
    "torchvision/mobilenet_v2": (32, 10),
    "timm/resnet26": (32, 8),
    "timm/regnetx_002": (32, 13),
    "timm/mobilenetv2_050": (32, 10),
    "timm/efficientnet_lite0": (32, 9),
    "timm/convnext_atto": (32, 12),
    "timm/edgenext_xx_small": (64, 12),  # channels last
    "timm/nf_regnet_b0": (32, 16),  # convolutions with standardised weights and a gain
}


def side_of(name: str) -> int:
    """The side of the images for a network; 32 for those that are not in NETWORKS."""
    return NETWORKS.get(name, (32, 0))[0]


def network(name: str = "resnet8", recipe: str | None = "ab", **options: Any) -> nn.Module:
    """One of 5 classes, far from the identity, in float64 and eval mode.

    `options` are those of `ab.create_model`.
    """
    side = side_of(name)
    if name == "preact11":
        model: nn.Module = PreActResNet(11, num_classes=5, variant="v1")
        if recipe is not None:
            ab.boost(model, recipe, example=torch.zeros(1, 3, side, side), **options)
    else:
        size = (3, side, side)
        model = ab.create_model(name, block=recipe, num_classes=5, input_size=size, **options)
    return randomise(model, signs=True).double().eval()


def images(name: str = "resnet8", n: int = 2) -> torch.Tensor:
    """n random images for a network, in float64."""
    return torch.randn(n, 3, side_of(name), side_of(name), dtype=torch.float64)


def difference(model: nn.Module, other: nn.Module, x: torch.Tensor) -> float:
    """max |difference| over max |output|."""
    with torch.no_grad():
        y, again = model(x), other(x)
    assert again.dtype == y.dtype
    assert again.shape == y.shape
    assert y.isfinite().all()
    return float((again - y).abs().max() / y.abs().max())

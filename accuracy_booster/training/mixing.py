"""What is done to a batch of normalised training images: random erasing, mixup and CutMix.

The random numbers come from the generators of torch and Python, which a training seeds anew at each
step.
"""

# N images of a batch, C channels, H W space

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

from accuracy_booster.training.train_config import TrainConfig

Mixing = Callable[..., tuple[torch.Tensor, torch.Tensor]]
Erasing = Callable[[torch.Tensor], torch.Tensor]


def make_erasing(config: TrainConfig) -> Erasing | None:
    """Normalised images [N, C, H, W] -> the same, some with a rectangle of noise; None where off.

    timm's RandomErasing in the mode "pixel", which is the default of timm's script: an image loses
    a rectangle of 2 to 33 % of its area with the probability `random_erasing`. The images are
    changed in place.
    """
    if not config.random_erasing:
        return None
    from timm.data.random_erasing import RandomErasing

    erasing = RandomErasing(config.random_erasing, mode="pixel")

    def erase(images: torch.Tensor) -> torch.Tensor:
        erasing.device = images.device
        return erasing(images)

    return erase


def make_mixing(config: TrainConfig) -> Mixing | None:
    """(images [N, C, H, W], labels [N]) -> mixed images, targets [N, classes]; None where off."""
    if not config.mixup and not config.cutmix:
        return None
    from torchvision.transforms import v2

    classes = config.num_classes
    ways: list[Any] = []
    if config.mixup:
        ways.append(v2.MixUp(alpha=float(config.mixup), num_classes=classes))
    if config.cutmix:
        ways.append(v2.CutMix(alpha=float(config.cutmix), num_classes=classes))
    return ways[0] if len(ways) == 1 else v2.RandomChoice(ways)

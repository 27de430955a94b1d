"""Mixup and CutMix: images of a batch that are mixed with one another, and their soft targets."""

# N images of a batch, C channels, H W space

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

from accuracy_booster.training.train_config import TrainConfig

Mixing = Callable[..., tuple[torch.Tensor, torch.Tensor]]


def make_mixing(config: TrainConfig) -> Mixing | None:
    """(images [N, C, H, W], labels [N]) -> mixed images, targets [N, classes]; None where off.

    The random numbers come from torch's generator, which a training seeds anew at each step.
    """
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

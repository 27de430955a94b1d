"""Networks on the meta device, whose cost is counted."""

# N batch, C channels, H W space

from __future__ import annotations

import torch
from torch import nn

import accuracy_booster as ab


def on_meta(name: str, recipe: str | None = None, **options) -> nn.Module:
    with torch.device("meta"):
        return ab.create_model(name, block=recipe, **options)


RESNET50, WRN18, SHUFFLENET = "resnet50v1", "wrn18_2", "shufflenet_g3"

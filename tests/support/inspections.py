"""Inspections of networks that need no network: weights with the structure that real ones have."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from accuracy_booster.inspection.accumulating import Accumulator
from accuracy_booster.inspection.gate_statistics import Gates, GateStatistics
from accuracy_booster.inspection.results import WHICH, Inspection, Outcome, Zeroed

RECIPE = "gap | dense(groups=C) | bn | sigmoid"
RESNET20 = [
    (f"layer{stage}.{block}.bn2", 8 << stage, (64 >> stage,) * 2)
    for stage in (1, 2, 3)
    for block in range(3)
]


def make_gate(
    site: str,
    channels: int,
    size: tuple[int, ...] | None = None,
    *,
    classes: int = 10,
    images: int = 400,
    strength: float = 0.5,
    labelled: bool = True,
    numbered: bool = True,
    scale: float = 1.0,
    **about: Any,
) -> GateStatistics:
    """What a gate did whose weights depend on the class, on the image, and a little on chance."""
    g = torch.Generator().manual_seed(channels * 31 + len(site) + sum(map(ord, site)))

    def normal(*shape: int) -> torch.Tensor:
        return torch.randn(*shape, generator=g)

    labels = torch.arange(images) % classes
    of_class = normal(classes, 3) @ normal(3, channels) * strength
    logits = normal(channels) + of_class[labels] + 0.4 * normal(images, channels)
    weights = scale * torch.sigmoid(logits)
    if channels > 4:
        weights[:, 1] = 0.01 * scale  # dead
        weights[:, 2] = 0.4 * scale + 0.001 * weights[:, 2]  # constant
    gathered = Accumulator(channels, scale)
    numbers = torch.arange(images) if numbered else None
    gathered.add(weights, labels if labelled else None, numbers)
    about = {"width": channels, "recipe": RECIPE, "per_position": False, "shared": False, **about}
    return gathered.result(site=site, spatial_size=size, **about)


def pictures_of(images: int, size: int = 32, channels: int = 3) -> dict[int, torch.Tensor]:
    """Smooth pictures, uint8 [channels, size, size], each another."""
    g = torch.Generator().manual_seed(size)
    small = torch.rand(images, channels, 5, 5, generator=g)
    large = torch.nn.functional.interpolate(small, (size, size), mode="bilinear")
    return dict(enumerate((large * 255).round().byte()))


def make_inspection(
    sites: Sequence[tuple[str, int, tuple[int, ...] | None]] = RESNET20,
    *,
    names: Sequence[str] = (),
    classes: int = 10,
    images: int = 400,
    pictures: int = 32,
    title: str = "resnet20 with AB on CIFAR-10",
    silent: tuple[str, ...] = (),
    recipe: str = RECIPE,
    folds: bool = False,
    **gate: Any,
) -> Inspection:
    """An inspection of gates at `sites`; `pictures` is the side of its pictures, 0 for none."""
    found = {}
    for i, (site, channels, size) in enumerate(sites):
        strength = 0.1 + 0.9 * i / max(1, len(sites) - 1)
        about = {"classes": classes, "images": images, "strength": strength, "recipe": recipe}
        found[site] = make_gate(site, channels, size, **{**about, **gate})
    gates = Gates(found, network="ResNet", images=images, classes=tuple(names), silent=silent)
    losses = [0.02, 0.31, -0.05, 0.44, 0.12, 0.73, 1.62, 0.94, -0.4]
    frozen = {}
    for i, site in enumerate(found):
        loss = losses[i % len(losses)]
        frozen[site] = Outcome(67.3 - loss, -loss, -loss - 0.21, -loss + 0.21)
    change = -0.04 if folds else -4.21
    zeroed = tuple(
        Zeroed(percent, which, Outcome(67.3 - fall, -fall, -fall - 0.4, -fall + 0.4))
        for which, factor in zip(WHICH, (2.1, 0.5, 1.1), strict=True)
        for percent in (5, 10, 15, 20, 25)
        for fall in [factor * percent]
    )
    labels = {i: i % classes for i in range(images)} if gate.get("labelled", True) else {}
    return Inspection(
        title=title,
        gates=gates,
        top1=67.3,
        images=images,
        frozen=frozen,
        all_frozen=Outcome(67.3 + change, change, change - 0.3, change + 0.3),
        zeroed=zeroed,
        by="image",
        layer=gates.find(),
        split="test",
        pictures=pictures_of(images, pictures) if pictures else {},
        labels=labels,
    )

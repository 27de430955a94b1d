"""Measures the running statistics of new gates' norms on some images, for frozen norms."""

# N batch, C channels, H W space

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from typing import Any

import torch
from torch import nn

from accuracy_booster.detection.norms import gates_norms
from accuracy_booster.surgery.modes import in_eval_mode


def images_of(batch: Any) -> list[torch.Tensor]:
    """The images of a batch as a detector takes them: float [3, H, W] in [0, 1]."""
    images = getattr(batch, "images", batch)
    if isinstance(images, tuple) and len(images) == 2 and isinstance(images[0], (list, tuple)):
        images = images[0]  # (images, targets), as torchvision's reference loops have it
    return [image.float() / 255 if image.dtype == torch.uint8 else image for image in images]


def estimate_gate_norms(model: nn.Module, batches: Iterable[Any], *, most: int = 8) -> int:
    """Set the running statistics of the gates' norms to those of their values on some images.

    The model is changed in place. Each norm gets the exact mean and variance (over n - 1, as
    torch's running variance) of all values that reach it on all images, in eval mode. The size of
    the batches does not matter.

    The values that reach a norm depend on the gates before it. Gates that start as the identity
    change nothing yet, so one pass over the images is exact for all of them. Other gates change
    with their statistics, so the k-th gate on the way is exact after k passes. Passes are made
    until no statistic moves by more than 1 % of a standard deviation.

    Args:
        model: a detector, or any network that takes a list of images.
        batches: lists of images, float [3, H, W] in [0, 1] or uint8, or batches with `.images`.
            Each pass iterates over them, so a list or a loader is best. About a hundred images
            are enough.
        most: the largest number of passes.

    Returns:
        The number of passes. It is 0 for a model without norms in gates, which is not changed.

    Raises:
        ValueError: for fewer than two images.
    """
    norms = gates_norms(model)
    if not norms:
        return 0
    batches = list(batches) if isinstance(batches, Iterator) else batches
    passes, moved = 0, math.inf
    with in_eval_mode(model):
        while passes < most and moved > 0.01:
            moved = _take(norms, _one_pass(model, norms, batches))
            passes += 1
    return passes


class _Moments:
    """The count, the mean and the summed squared deviations of values, per channel, in float64."""

    def __init__(self) -> None:
        self.count, self.mean, self.spread = 0, torch.zeros(()), torch.zeros(())

    def add(self, x: torch.Tensor) -> None:
        """Add the values of x[N, C, ...]."""
        values = x.detach().movedim(1, -1).flatten(0, -2).double()
        count, total = len(values), self.count + len(values)
        if not count:
            return
        mean = values.mean(0)
        spread = (values - mean).square().sum(0)
        between = mean - self.mean.to(mean)
        self.spread = self.spread.to(mean) + spread + between**2 * (self.count * count / total)
        self.mean = self.mean.to(mean) + between * (count / total)
        self.count = total


def _one_pass(
    model: nn.Module, norms: dict[str, nn.Module], batches: Iterable[Any]
) -> dict[str, _Moments]:
    """The moments of the values that reach each norm, over all batches."""
    found = {name: _Moments() for name in norms}

    def reader(moments: _Moments) -> Any:
        return lambda module, args: moments.add(args[0])

    hooks = [norms[name].register_forward_pre_hook(reader(found[name])) for name in norms]
    like = next(model.parameters())
    try:
        with torch.no_grad():
            for batch in batches:
                model([image.to(like.device) for image in images_of(batch)])
    finally:
        for hook in hooks:
            hook.remove()
    return found


@torch.no_grad()
def _take(norms: dict[str, Any], found: dict[str, _Moments]) -> float:
    """Set the statistics; returns the largest change of one, in standard deviations."""
    moved = 0.0
    for name, norm in norms.items():
        moments = found[name]
        if moments.count < 2:
            raise ValueError(
                f"the norm {name!r} got {moments.count} values per channel; give two images or more"
            )
        var = moments.spread / (moments.count - 1)
        before = norm.running_var.double()
        shift = (moments.mean - norm.running_mean).abs() / (var + norm.eps).sqrt()
        ratio = ((var + norm.eps) / (before + norm.eps)).sqrt().log().abs()
        moved = max(moved, float(shift.max()), float(ratio.max()))
        norm.running_mean.copy_(moments.mean)
        norm.running_var.copy_(var)
    return moved

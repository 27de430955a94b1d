"""How the norms of a detector's backbone get their statistics: frozen, synchronised, or normal.

A detector is trained on few images per device, often two. A batch norm of the base sees
N * H * W values per channel then, which is enough. A gate's norm sees N: two values, of which one
becomes +1 and the other -1 whatever they were, so its statistics say nothing. The three ways out:

frozen        Running statistics are used and not updated, in the base and in the gates, also in
              training mode. In the base the weights and biases of norms get no gradient either:
              torchvision's FrozenBatchNorm2d, and what Detectron did with its ResNets. In a gate
              they learn, for they are the gate's own (one that starts as the identity has a factor
              at zero there, and would stay dead). This is the default for networks with trained
              weights. New gates have statistics 0 and 1, which say nothing about their values:
              `estimate_gate_norms` measures them on some images first.
synchronised  Statistics are those of the images of all processes together. With eight processes of
              two images a gate's norm sees sixteen values. In one process it is "normal".
normal        torch's own: each process for itself. For networks that are trained from their random
              start, with as many images per device as fit.
"""

# N batch, C channels, H W space

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from contextlib import AbstractContextManager, nullcontext
from typing import Any, Literal

import torch
from torch import nn

from accuracy_booster.ops.batch_norm import BatchNorms
from accuracy_booster.ops.synchronise import merged
from accuracy_booster.surgery.attaching import attached
from accuracy_booster.surgery.modes import in_eval_mode

Norms = Literal["auto", "frozen", "synchronised", "normal"]
BatchNorm = nn.modules.batchnorm._BatchNorm


class HoldsNorms(nn.Module):
    """A part of a detector that keeps some of its norms on their running statistics.

    They stay so through `train()`, copies, pickles and whatever rebuilds norms, for they are known
    by name and are looked after before each pass.
    """

    frozen_norms: tuple[str, ...] = ()  # by name, those of gates too
    all_frozen = False  # every one, those of gates that are attached later too
    synchronised = False

    def hold_norms(self) -> None:
        """Put the frozen norms into eval mode; the gate of one of them is not one of its parts."""
        held = (
            batch_norms(self).values()
            if self.all_frozen
            else map(self.get_submodule, self.frozen_norms)
        )
        for norm in held:
            if norm.training:
                norm.training = False

    def train(self, mode: bool = True) -> Any:
        super().train(mode)
        self.hold_norms()
        return self

    def norms_held(self) -> AbstractContextManager[Any]:
        """What a pass runs in."""
        self.hold_norms()
        group = torch.distributed
        several = group.is_available() and group.is_initialized() and group.get_world_size() > 1
        together = self.training and self.synchronised and several
        return BatchNorms(merged) if together else nullcontext()


def batch_norms(module: nn.Module) -> dict[str, nn.Module]:
    """The batch norms with running statistics in a network, those of gates too, by name."""
    found = {n: m for n, m in module.named_modules() if isinstance(m, BatchNorm)}
    return {name: norm for name, norm in found.items() if norm.running_mean is not None}


def gates_norms(module: nn.Module) -> dict[str, nn.Module]:
    """Those of them that are inside gates."""
    inside = {id(m) for gate in attached(module).values() for m in gate.modules()}
    return {name: norm for name, norm in batch_norms(module).items() if id(norm) in inside}


def images_of(batch: Any) -> list[torch.Tensor]:
    """The images of a batch as a detector takes them: float [3, H, W] in [0, 1]."""
    images = getattr(batch, "images", batch)
    if isinstance(images, tuple) and len(images) == 2 and isinstance(images[0], (list, tuple)):
        images = images[0]  # (images, targets), as torchvision's loops have it
    return [image.float() / 255 if image.dtype == torch.uint8 else image for image in images]


def estimate_gate_norms(model: nn.Module, batches: Iterable[Any], *, most: int = 8) -> int:
    """Give the gates' norms the statistics of their values on some images, in place.

    Each norm gets the exact mean and variance (over n - 1, as torch's running variance) of all
    values that reach it on all images, in eval mode; the size of the batches does not matter. What
    reaches a norm depends on the gates before it. Gates that start as the identity
    (init="identity") change nothing yet, so one pass over the images is exact for all of them.
    Other gates change with their statistics: the k-th gate on the way is exact after k passes. The
    passes go on until no statistic moves by more than 1% of a standard deviation, `most` at most.

    Args:
        model: a detector (or any network that takes a list of images).
        batches: lists of images, float [3, H, W] in [0, 1] or uint8, or batches with `.images`. It
            is gone through once for each pass, so give a list or a loader, of a hundred images
            say.
        most: passes at most.

    Returns:
        The passes that were made; 0 for a model without such norms, which is left as it is.

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
    """Count, mean and sum of squared differences per channel, in float64."""

    def __init__(self) -> None:
        self.count, self.mean, self.spread = 0, torch.zeros(()), torch.zeros(())

    def add(self, x: torch.Tensor) -> None:
        """x[N, C, ...]"""
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
    """Set the statistics; returns by how much they moved at most, in standard deviations."""
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

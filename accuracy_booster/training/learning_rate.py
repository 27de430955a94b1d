"""The learning rate's schedule, as a function of the epoch and the step.

The rate depends on nothing else, so a training that is resumed needs no state of a schedule.
"""

from __future__ import annotations

import math
from typing import Any

from accuracy_booster.training.run_config import RunConfig


def rate_factor(config: RunConfig, epoch: int, done: float = 0.0, steps: int = 1) -> float:
    """The factor of all rates at a place in the training: 1 is the full rate.

    Args:
        epoch: counted from 0.
        done: the share of this epoch's steps that are over, in [0, 1].
        steps: the number of steps in an epoch.
    """
    rising = min(config.warmup_steps, steps)
    if rising and (share := (epoch + done) * steps / rising) < 1:
        first = min(1.0, config.warmup_lr / config.lr)  # the rate rises, also to a small lr
        return first + (1 - first) * share
    warmup = min(config.warmup_epochs, config.epochs)
    if epoch < warmup:
        first = config.warmup_lr / config.lr
        if config.warmup == "constant":
            return first
        first = min(1.0, first)
        return first + (1 - first) * (epoch + done) / warmup
    if config.schedule == "cosine":
        return 0.5 * (1 + math.cos(math.pi * (epoch - warmup) / max(1, config.epochs - warmup)))
    drops = sum(epoch >= math.ceil(m * config.epochs) for m in config.milestones)
    return config.gamma**drops


def set_rates(optimizer: Any, factor: float) -> None:
    """Set the rate of each group to a multiple of its full rate `lr0`."""
    for group in optimizer.param_groups:
        group["lr"] = group["lr0"] * factor

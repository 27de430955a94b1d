"""How long inference takes; the variants take turns, so that a noisy machine is fair to all.

Each round has them in another order, so that none always runs after the same one.
"""

from __future__ import annotations

import random
import time
from collections.abc import Mapping
from statistics import median

import torch
from torch import nn


@torch.inference_mode()
def latency(
    models: Mapping[str, nn.Module],
    input_size: tuple[int, int, int],
    *,
    batch_size: int = 64,
    rounds: int = 15,
) -> dict[str, float]:
    """Milliseconds per image in eval mode, the median over `rounds` of one batch per model."""
    times: dict[str, list[float]] = {name: [] for name in models}
    for model in models.values():
        model.eval()
    orders = random.Random(0)
    for step in range(rounds + 2):  # the first two warm up
        for name in orders.sample(list(models), len(models)):
            model = models[name]
            like = next(model.parameters())
            x = torch.randn(batch_size, *input_size, device=like.device, dtype=like.dtype)
            _wait(like)
            start = time.perf_counter()
            model(x)
            _wait(like)
            if step >= 2:
                times[name].append(1e3 * (time.perf_counter() - start) / batch_size)
    return {name: median(values) for name, values in times.items()}


def _wait(like: torch.Tensor) -> None:
    if like.device.type == "cuda":
        torch.cuda.synchronize(like.device)

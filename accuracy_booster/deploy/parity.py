"""Parity: an exported file computes what the network computes."""

# N images, C channels, H W space, K classes

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from torch import nn

from accuracy_booster.training.network_outputs import split_outputs

# Of the largest output. Runtimes sum in other orders and compute 3x3 convolutions in Winograd's
# form, so deep networks differ by about 1e-6 of it.
TOLERANCE = 1e-4


@dataclass(frozen=True)
class Parity:
    """How far an exported file is from the network.

    Attributes:
        max_error: the largest difference of an output, over the largest output.
        images: on how many images.
        same_class: of how many the most probable class is the same.
        source: where the images are from, in words.
    """

    max_error: float
    images: int
    same_class: int
    source: str

    def __str__(self) -> str:
        return (
            f"largest error {self.max_error:.1e} of the largest output, the same class for "
            f"{self.same_class} of {self.images} {self.source}"
        )


@torch.no_grad()
def compare(
    network: nn.Module,
    run: Callable[[np.ndarray], np.ndarray],
    images: torch.Tensor,
    source: str,
    *,
    batch: int | None = None,
) -> Parity:
    """Compare a file's outputs with the network's, in float32 and in batches of several sizes.

    Args:
        network: in eval mode, on the CPU.
        run: runs the file, float32 [N, C, H, W] -> [N, K].
        images: float32 [N, C, H, W], normalised.
        batch: the number of images that the file takes; None for any number.

    Raises:
        ValueError: if the file gives outputs of another shape.
    """
    if batch is not None:  # repeated, so that they fill a batch
        images = images.repeat(math.ceil(batch / len(images)), 1, 1, 1)[:batch]
    sizes = (1, 3, len(images)) if batch is None else (batch,)
    expected = torch.cat([split_outputs(network(x))[0] for x in images.split(32)]).numpy()
    worst, same = 0.0, 0
    largest = float(np.abs(expected).max())
    for size in dict.fromkeys(min(size, len(images)) for size in sizes):
        found = run(np.ascontiguousarray(images[:size].numpy()))
        if found.shape != expected[:size].shape:
            raise ValueError(
                f"the exported file gives outputs {[*found.shape]} for {size} images, and the "
                f"network {[*expected[:size].shape]}"
            )
        error = float(np.abs(found - expected[:size]).max()) / max(largest, 1e-30)
        worst = max(worst, error) if math.isfinite(error) else math.inf
        same = int((found.argmax(1) == expected[:size].argmax(1)).sum())
    return Parity(worst, len(images), same, source)

"""Parity: an exported file computes what the network computes."""

# N images, C channels, H W space, K classes

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from torch import nn

from accuracy_booster.errors import reason_of
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
        ValueError: if the file gives outputs of another shape, or the network's are not finite.
    """
    if batch is not None:  # repeated, so that they fill whole batches
        count = math.ceil(len(images) / batch) * batch
        images = images.repeat(math.ceil(count / len(images)), 1, 1, 1)[:count]
    sizes = (1, 3, len(images)) if batch is None else (len(images),)
    parts = images.split(32 if batch is None else batch)
    try:
        expected = torch.cat([split_outputs(network(x))[0] for x in parts]).numpy()
    except RuntimeError as e:
        raise ValueError(
            f"this {type(network).__name__} cannot take {len(parts[0])} images ({reason_of(e)}); "
            "if it takes one number of images alone, give that (batch=, --batch)"
        ) from e
    if not np.isfinite(expected).all():
        raise ValueError(
            f"the network's own outputs are not finite on {len(images)} {source}, so no file can "
            "be compared with them; train it anew, or give other images"
        )
    worst, same = 0.0, 0
    largest = float(np.abs(expected).max())
    for size in dict.fromkeys(min(size, len(images)) for size in sizes):
        found = _outputs(run, images[:size].numpy(), batch)
        if found.shape != expected[:size].shape:
            raise ValueError(
                f"the exported file gives outputs {[*found.shape]} for {size} images, and the "
                f"network {[*expected[:size].shape]}"
            )
        error = float(np.abs(found - expected[:size]).max()) / max(largest, 1e-30)
        worst = max(worst, error) if math.isfinite(error) else math.inf
        same = int((found.argmax(1) == expected[:size].argmax(1)).sum())
    return Parity(worst, len(images), same, source)


def _outputs(
    run: Callable[[np.ndarray], np.ndarray], images: np.ndarray, batch: int | None
) -> np.ndarray:
    """A file's outputs, [N, K].

    With a fixed number of images the last image comes first, so that batches have other images than
    the network's had: an image's outputs must not depend on the others of its batch.
    """
    if batch is None:
        return run(np.ascontiguousarray(images))
    moved = np.roll(images, 1, axis=0)
    parts = np.split(moved, range(batch, len(moved), batch))
    return np.roll(np.concatenate([run(part) for part in parts]), -1, axis=0)

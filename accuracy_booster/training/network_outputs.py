"""Find the logits in the output of any network, and those of its auxiliary heads.

A network returns its logits alone, or more, some only in training mode:

    GoogLeNet and Inception v3 of torchvision   a named tuple with `logits` and `aux_logits...`
    torchvision's segmentation networks         a dict with "out" and "aux"
    Hugging Face's networks                     an object or a dict with `logits`
    others                                      a tuple or list, the logits first

Auxiliary logits add to the loss: 0.3 of each of two (GoogLeNet's paper, section 5), 0.4 of a
single one (Inception v3 in PyTorch's tutorials), 0.5 of "aux" (torchvision's references).
"""

# N batch, C channels, H W space, K classes

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import nn

Auxiliary = list[tuple[float, torch.Tensor]]


def split_outputs(output: Any) -> tuple[torch.Tensor, Auxiliary]:
    """A network's output -> its logits [N, K], and (weight in the loss, logits) per auxiliary head.

    Raises:
        ValueError: for an output without logits [N, K].
    """
    logits, others, weight = output, [], None
    if isinstance(output, Mapping) and "out" in output:
        logits, others, weight = output["out"], [output.get("aux")], 0.5
    elif isinstance(output, Mapping):
        logits = output.get("logits")
    elif hasattr(output, "_fields") and hasattr(output, "logits"):
        logits = output.logits
        others = [getattr(output, name) for name in output._fields if name != "logits"]
    elif hasattr(output, "logits"):
        logits = output.logits
    elif isinstance(output, (tuple, list)) and output:
        logits, *others = output
    if not isinstance(logits, torch.Tensor) or logits.ndim != 2:
        shape = f" {list(logits.shape)}" if isinstance(logits, torch.Tensor) else ""
        raise ValueError(
            f"the network gives a {type(output).__name__}{shape}; training and measuring need "
            "logits [N, classes], alone, first in a tuple, or named 'logits' or 'out'"
        )
    heads = [o for o in others if isinstance(o, torch.Tensor) and o.shape == logits.shape]
    weight = weight or (0.4 if len(heads) == 1 else 0.3)
    return logits, [(weight, head) for head in heads]


def try_network(
    network: nn.Module,
    name: str,
    size: tuple[int, int, int],
    device: torch.device,
    *,
    images: int = 2,
    remedy: str = "give another image_size",
) -> int:
    """Run a network, in the mode that it is in, on blank images; returns the number of logits.

    Args:
        name: the network's, for messages.
        size: (C, H, W) of an image.
        images: how many.
        remedy: what the user can do if it fails.

    Raises:
        ValueError: if it cannot take images of this size, or gives no logits.
    """
    try:
        blank = torch.zeros(images, *size, device=device)
        with torch.no_grad(), torch.random.fork_rng():
            return split_outputs(network(blank))[0].shape[1]
    except torch.OutOfMemoryError:
        raise
    except (RuntimeError, AssertionError, TypeError, AttributeError, LookupError) as e:
        kind = "" if isinstance(e, (RuntimeError, AssertionError)) else f"{type(e).__name__}: "
        reason = f"{kind}{' '.join(str(e).split())[:200]}"
        raise ValueError(
            f"{name} cannot take images of {' x '.join(map(str, size))} ({reason}); {remedy}"
        ) from e

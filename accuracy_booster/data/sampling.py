"""Balanced sampling: which images an epoch shows, where each class is to appear equally often."""

# N images

from __future__ import annotations

import torch


def draw_balanced(labels: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
    """labels[N] -> N numbers of images, drawn with replacement.

    Each draw takes a class, all that have images being equally likely, and then one of its images.
    So an image is as likely as its class is small.
    """
    count, by_class = len(labels), labels.argsort(stable=True)
    sizes = labels.bincount()
    starts = sizes.cumsum(0) - sizes
    present = sizes.nonzero()[:, 0]
    classes = present[torch.randint(len(present), (count,), generator=generator)]
    places = torch.rand(count, generator=generator, dtype=torch.float64)
    return by_class[starts[classes] + (places * sizes[classes]).long()]


def repeats(drawn: torch.Tensor) -> torch.Tensor:
    """drawn[N] -> how often each number was drawn before, [N].

    With it, an image that an epoch shows several times is augmented in another way each time.
    """
    in_order, places = drawn.sort(stable=True)
    first = torch.searchsorted(in_order, in_order)
    before = torch.empty_like(drawn)
    before[places] = torch.arange(len(drawn)) - first
    return before

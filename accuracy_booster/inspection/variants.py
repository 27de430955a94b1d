"""Changes of all gates of a network: frozen at their mean weights, or with channels zeroed."""

# N images, C channels

from __future__ import annotations

import zlib
from collections.abc import Callable, Collection, Mapping
from numbers import Real

import torch

from accuracy_booster.data.random_streams import integers
from accuracy_booster.errors import unknown
from accuracy_booster.inspection.gate_weights import by_channel
from accuracy_booster.inspection.results import BY_AVERAGE, BY_IMAGE, HIGHEST, RANDOM, WHICH

# (site, weights p[N, C, ...], numbers [N] of the images) -> the weights to use
Variant = Callable[[str, torch.Tensor, torch.Tensor], torch.Tensor]
Means = Mapping[str, torch.Tensor]  # {site: mean weights [C]}


def frozen(means: Means, sites: Collection[str]) -> Variant:
    """The gates at these sites give their mean weights, whatever the image is."""

    def change(site: str, p: torch.Tensor, numbers: torch.Tensor) -> torch.Tensor:
        if site not in sites:
            return p
        mean = means[site].to(device=p.device, dtype=p.dtype)
        return mean.view(1, -1, *[1] * (p.ndim - 2)).expand_as(p).clone()

    return change


def zeroed(
    percent: float, which: str, *, by: str = BY_IMAGE, means: Means | None = None, seed: int = 0
) -> Variant:
    """In every block, a share of the channels gets the weight 0, as in the paper's Table 16.

    A gate with one weight for all channels stays as it is.

    Args:
        percent: of each block's channels, rounded to whole channels (halves up).
        which: channels of the "highest" or "lowest" weights, or "random" ones.
        by: "image": the weights of that image, as the paper's text says; "average": the mean
            weights over all images, so that the same channels are zeroed for every image.
        means: needed for by="average".
        seed: of the random channels. They are drawn for each image anew, so that the accuracy is an
            average over random choices.

    Raises:
        ValueError: for an argument out of range.
    """
    if not isinstance(percent, Real) or not 0 <= percent <= 100:
        raise ValueError(f"percent={percent!r} must be a number from 0 to 100")
    if which not in WHICH:
        raise unknown("choice of channels", which, WHICH)
    if by not in (BY_IMAGE, BY_AVERAGE):
        raise unknown("ranking", by, (BY_IMAGE, BY_AVERAGE))

    def change(site: str, p: torch.Tensor, numbers: torch.Tensor) -> torch.Tensor:
        channels = p.shape[1]
        count = rounded(percent, channels)
        if channels == 1 or not count:
            return p
        if which == RANDOM:
            score = _random(channels, numbers, site, seed)
        elif by == BY_IMAGE:
            score = by_channel(p)
        else:
            assert means is not None
            score = means[site][None]
        order = score.argsort(dim=1, descending=which == HIGHEST, stable=True)[:, :count]
        if len(order) not in (1, len(p)):  # a detector's regions are more than its images
            raise ValueError(f"the gate at {site!r} has {len(p)} weights for {len(order)} images")
        keep = torch.ones(len(order), channels, dtype=p.dtype, device=p.device)
        keep.scatter_(1, order.to(p.device), 0)
        return p * keep.view(*keep.shape, *[1] * (p.ndim - 2))

    return change


def rounded(percent: float, channels: int) -> int:
    """So many percent of the channels as a whole number; halves are rounded up."""
    return int(percent * channels / 100 + 0.5)


def _random(channels: int, numbers: torch.Tensor, site: str, seed: int) -> torch.Tensor:
    """Scores [N, C] that depend on the image, the site and the seed, but not on the batch."""
    place = zlib.crc32(site.encode())
    samples = numbers.cpu().long()[:, None] * channels + torch.arange(channels)
    return integers(1 << 62, samples, seed, place)

"""Gather the statistics of a gate's weights, batch by batch.

The memory that this takes depends on the channels and classes, but not on the number of images.
"""

# N images, C channels, K classes, B bins

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import torch

from accuracy_booster.inspection.gate_statistics import BINS, Extremes, GateStatistics

MOST = 8  # images at each end, highest and lowest weights, that are kept for each channel


@dataclass
class Accumulator:
    """Gathers the statistics of one gate. Two of them that saw different images can be merged.

    Attributes:
        channels: C.
        scale: weights are between 0 and this.
        most: how many images are kept at each end.
        count: how many weights of a channel were added.
        images: whether all weights were one per image.
        mean: [C].
        squares: [C], sums of squared deviations from the mean.
        histogram: [C, B].
        extremes: the images with the highest weights (True) and with the lowest (False).
        class_sums: [K, C], sums of the weights of each class.
        class_counts: [K].
        unlabelled: how many weights belong to no known class.
    """

    channels: int
    scale: float
    most: int = MOST
    count: int = 0
    images: bool = True
    mean: torch.Tensor = field(init=False)
    squares: torch.Tensor = field(init=False)
    histogram: torch.Tensor = field(init=False)
    extremes: dict[bool, Extremes] = field(init=False)
    class_sums: torch.Tensor = field(init=False)
    class_counts: torch.Tensor = field(init=False)
    unlabelled: int = 0

    def __post_init__(self) -> None:
        c = self.channels
        self.mean = torch.zeros(c, dtype=torch.float64)
        self.squares = torch.zeros(c, dtype=torch.float64)
        self.histogram = torch.zeros(c, BINS, dtype=torch.int64)
        none = Extremes(
            torch.empty(c, 0, dtype=torch.float64), torch.empty(c, 0, dtype=torch.int64)
        )
        self.extremes = {True: none, False: none}
        self.class_sums = torch.zeros(0, c, dtype=torch.float64)
        self.class_counts = torch.zeros(0, dtype=torch.int64)

    def add(
        self,
        weights: torch.Tensor,
        labels: torch.Tensor | None = None,
        numbers: torch.Tensor | None = None,
    ) -> None:
        """Add the weights of a batch.

        Args:
            weights: [N, C].
            labels: [N], classes; negative for an image without one. None: no image has one.
            numbers: [N], the numbers of the images. None: the weights are not one per image.
        """
        p = weights.detach().double().cpu()
        mean = p.mean(0)
        self._combine(len(p), mean, (p - mean).square().sum(0))
        bins = (p * (BINS / self.scale)).long().clamp(0, BINS - 1)
        places = (bins + torch.arange(self.channels) * BINS).flatten()
        counts = torch.bincount(places, minlength=self.channels * BINS)
        self.histogram += counts.view(self.channels, BINS)
        if numbers is None:
            self.images = False
        else:
            given = numbers.cpu().expand(self.channels, -1)
            for highest in (True, False):
                self._extend(highest, Extremes(p.t(), given))
        if labels is None:
            self.unlabelled += len(p)
            return
        labels = labels.cpu()
        known = labels >= 0
        self.unlabelled += int((~known).sum())
        if known.any():
            self._widen(int(labels.max()) + 1)
            self.class_sums.index_add_(0, labels[known], p[known])
            self.class_counts += torch.bincount(labels[known], minlength=len(self.class_counts))

    def merge(self, other: Accumulator) -> None:
        """Add what another one has gathered, of other images."""
        self._combine(other.count, other.mean, other.squares)
        self.histogram += other.histogram
        self.images &= other.images
        for highest, found in other.extremes.items():
            self._extend(highest, found)
        self._widen(len(other.class_counts))
        self.class_sums[: len(other.class_sums)] += other.class_sums
        self.class_counts[: len(other.class_counts)] += other.class_counts
        self.unlabelled += other.unlabelled

    def result(self, **about: Any) -> GateStatistics:
        """The statistics of what was gathered.

        Args:
            about: the fields of `GateStatistics` that say which gate it is.

        Raises:
            ValueError: if nothing was gathered.
        """
        if not self.count:
            raise ValueError("the gate has seen no image")
        variance = self.squares / self.count
        means = share = None
        if len(self.class_counts) and not self.unlabelled:
            counts = self.class_counts[:, None]
            means = self.class_sums / counts  # NaN for a class without images
            share = self._class_share(means)
        ends = self.extremes if self.images else {}
        return GateStatistics(
            **about,
            scale=self.scale,
            count=self.count,
            mean=self.mean.clone(),
            spread=variance.clamp(min=0).sqrt(),
            histogram=self.histogram.clone(),
            highest=ends.get(True),
            lowest=ends.get(False),
            class_means=means,
            class_counts=None if means is None else self.class_counts.clone(),
            class_share=share,
        )

    def _class_share(self, means: torch.Tensor) -> torch.Tensor:
        """Epsilon squared [C]: 1 - (variance within classes) / (variance), both unbiased."""
        counts = self.class_counts.double()
        classes = int((counts > 0).sum())
        between = (counts[:, None] * (means.nan_to_num() - self.mean).square()).sum(0)
        within = (self.squares - between).clamp(min=0)
        if self.count <= classes or self.count < 2:
            return torch.zeros_like(within)
        total = self.squares / (self.count - 1)
        # a spread as small as rounding errors is none
        varies = self.squares > self.count * (1e-9 * self.scale) ** 2
        share = 1 - (within / (self.count - classes)) / total.clamp(min=1e-300)
        return torch.where(varies, share.clamp(0, 1), torch.zeros_like(share))

    def _combine(self, count: int, mean: torch.Tensor, squares: torch.Tensor) -> None:
        """Update the mean and the sum of squared deviations (Chan, Golub and LeVeque)."""
        if not count:
            return
        total = self.count + count
        step = mean - self.mean
        self.mean = self.mean + step * (count / total)
        self.squares = self.squares + squares + step.square() * (self.count * count / total)
        self.count = total

    def _extend(self, highest: bool, found: Extremes) -> None:
        """Keep the most extreme images of both; of equal weights, the first image."""
        kept = self.extremes[highest]
        weights = torch.cat([kept.weights, found.weights], 1)
        images = torch.cat([kept.images, found.images], 1)
        by_image = images.argsort(dim=1)
        weights, images = weights.gather(1, by_image), images.gather(1, by_image)
        order = weights.argsort(dim=1, descending=highest, stable=True)[:, : self.most]
        self.extremes[highest] = Extremes(weights.gather(1, order), images.gather(1, order))

    def _widen(self, classes: int) -> None:
        """Make room for so many classes at least."""
        more = classes - len(self.class_counts)
        if more > 0:
            self.class_sums = torch.cat(
                [self.class_sums, self.class_sums.new_zeros(more, self.channels)]
            )
            self.class_counts = torch.cat([self.class_counts, self.class_counts.new_zeros(more)])

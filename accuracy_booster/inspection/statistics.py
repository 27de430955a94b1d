"""What a gate did over a data set: statistics that are gathered batch by batch.

The memory that this takes depends on channels and classes, and not on the number of images.
"""

# N images, C channels, K classes, B bins

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import torch

from accuracy_booster.inspection.layers import find_layer, stages

BINS = 40  # of a histogram over [0, scale]: the marks of saturation are edges of bins
SATURATED = 0.05  # a weight is saturated below this share of the scale, or above 1 less this
CONSTANT = 0.01  # a channel's weight is constant if it spreads less than this share of the scale
DEAD = 0.99  # a channel is dead if this share of its weights is saturated below
MOST = 8  # images with the highest and with the lowest weight that are kept for each channel


@dataclass(frozen=True)
class Extremes:
    """The images with the highest, or lowest, weight of each channel, the most extreme first.

    Attributes:
        weights: [C, m], m at most 8.
        images: [C, m], their numbers in the order of the loader.
    """

    weights: torch.Tensor
    images: torch.Tensor


@dataclass(frozen=True)
class GateStatistics:
    """What one gate did. Weights are between 0 and `scale`; shares are of 1.

    Attributes:
        site: the qualified name of the module whose output the gate scales; a second gate at the
            same place (CBAM's) has "#2" after it.
        recipe: the block's text.
        scale: s of p = s * sigmoid(...).
        width: the number of channels of the map that it scales.
        spatial_size: the sides of the map it was built for, if known.
        per_position: the gate has a weight for each position; these are means over positions.
        shared: the gate has one weight for all channels (then C is 1, whatever the width).
        count: how many weights of a channel were seen: one an image.
        mean: [C], over the images.
        spread: [C], standard deviation across the images.
        histogram: [C, B], how many weights fall into each of B equal bins of [0, scale].
        highest, lowest: the images with the most extreme weights; None where weights are not one
            per image.
        class_means: [K, C]; None unless every image has a label, as are the next two. Rows of
            classes without images are NaN.
        class_counts: [K].
        class_share: [C], the share of the variance across images that the class explains, adjusted
            for the number of classes (epsilon squared).
    """

    site: str
    recipe: str
    scale: float
    width: int
    spatial_size: tuple[int, ...] | None
    per_position: bool
    shared: bool
    count: int
    mean: torch.Tensor
    spread: torch.Tensor
    histogram: torch.Tensor
    highest: Extremes | None = None
    lowest: Extremes | None = None
    class_means: torch.Tensor | None = None
    class_counts: torch.Tensor | None = None
    class_share: torch.Tensor | None = None

    @property
    def channels(self) -> int:
        return len(self.mean)

    @property
    def below(self) -> torch.Tensor:
        """[C], the share of each channel's weights under 0.05 of the scale."""
        return self.histogram[:, : round(SATURATED * BINS)].sum(1).double() / self.count

    @property
    def above(self) -> torch.Tensor:
        """[C], the share of each channel's weights from 0.95 of the scale on."""
        return self.histogram[:, -round(SATURATED * BINS) :].sum(1).double() / self.count

    @property
    def saturated(self) -> float:
        """The share of all weights that are saturated."""
        return float((self.below + self.above).mean())

    @cached_property
    def entropy(self) -> torch.Tensor:
        """[C], of the histogram over images, in bits: 0 for a constant, log2(40) = 5.3 at most."""
        p = self.histogram.double() / self.count
        return -(p * p.clamp(min=1e-300).log2()).sum(1)

    @property
    def dead(self) -> list[int]:
        """The channels whose weight is next to 0 on (99 % of) all images."""
        return (self.below >= DEAD).nonzero().flatten().tolist()

    @property
    def constant(self) -> list[int]:
        """The channels whose weight hardly depends on the image."""
        return (self.spread < CONSTANT * self.scale).nonzero().flatten().tolist()

    @property
    def is_constant(self) -> bool:
        """Whether every channel's weight is constant."""
        return len(self.constant) == self.channels

    @property
    def explained(self) -> float | None:
        """The share of the gate's variance, all channels together, that the class explains."""
        if self.class_share is None:
            return None
        variance = self.spread.square()
        total = float(variance.sum())
        return float((self.class_share * variance).sum()) / total if total else 0.0

    def separating(self, one: int, other: int, most: int = 5) -> list[tuple[int, float]]:
        """The channels whose mean weights differ most between two classes, by their numbers.

        Returns:
            (channel, difference in units of the channel's spread across images), largest first.

        Raises:
            ValueError: without labels, or for a class without images.
        """
        if self.class_means is None:
            raise ValueError("the classes are not known; give a loader of (images, labels)")
        for number in (one, other):
            if not 0 <= number < len(self.class_means) or bool(
                self.class_means[number].isnan().any()
            ):
                raise ValueError(f"class {number} has no images here")
        difference = self.class_means[one] - self.class_means[other]
        difference = difference / self.spread.clamp(min=1e-12)
        order = difference.abs().argsort(descending=True, stable=True)[:most]
        return [(int(c), float(difference[c])) for c in order]

    def to_dict(self) -> dict[str, Any]:
        """The statistics as plain values, channel by channel."""
        lists = {
            name: [round(float(v), 6) for v in getattr(self, name)]
            for name in ("mean", "spread", "below", "above", "entropy")
        }
        share = None if self.class_share is None else [round(float(v), 6) for v in self.class_share]
        return {
            **{"site": self.site, "recipe": self.recipe, "scale": self.scale},
            **{"channels": self.channels, "count": self.count, "saturated": self.saturated},
            **{"explained": self.explained, "dead": self.dead, "constant": self.constant},
            **lists,
            "class_share": share,
            "histogram": self.histogram.sum(0).tolist(),
        }


@dataclass
class Accumulator:
    """Gathers the statistics of one gate. Two of them that saw different images can be merged."""

    channels: int
    scale: float
    most: int = MOST
    count: int = 0
    images: bool = True  # weights are one per image
    mean: torch.Tensor = field(init=False)
    squares: torch.Tensor = field(init=False)  # sum of squared deviations from the mean
    histogram: torch.Tensor = field(init=False)
    extremes: dict[bool, Extremes] = field(init=False)  # by whether they are the highest
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
        """Count weights[N, C] of images with labels[N] (negative: none) and numbers[N]."""
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
        """Count what another one has seen too."""
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
        """What was gathered; `about` are the fields of `GateStatistics` that say which gate it is.

        Raises:
            ValueError: if nothing was.
        """
        if not self.count:
            raise ValueError("the gate has seen no image")
        variance = self.squares / self.count
        means = share = None
        if len(self.class_counts) and not self.unlabelled:
            counts = self.class_counts[:, None]
            means = self.class_sums / counts  # 0 / 0 is NaN: a class without images
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
        """Epsilon squared: 1 - (variance within classes) / (variance), both without bias."""
        counts = self.class_counts.double()
        classes = int((counts > 0).sum())
        between = (counts[:, None] * (means.nan_to_num() - self.mean).square()).sum(0)
        within = (self.squares - between).clamp(min=0)
        if self.count <= classes or self.count < 2:
            return torch.zeros_like(within)
        total = self.squares / (self.count - 1)
        # a spread at the level of rounding is none
        varies = self.squares > self.count * (1e-9 * self.scale) ** 2
        share = 1 - (within / (self.count - classes)) / total.clamp(min=1e-300)
        return torch.where(varies, share.clamp(0, 1), torch.zeros_like(share))

    def _combine(self, count: int, mean: torch.Tensor, squares: torch.Tensor) -> None:
        """Chan, Golub and LeVeque's update of a mean and a sum of squared deviations."""
        if not count:
            return
        total = self.count + count
        step = mean - self.mean
        self.mean = self.mean + step * (count / total)
        self.squares = self.squares + squares + step.square() * (self.count * count / total)
        self.count = total

    def _extend(self, highest: bool, found: Extremes) -> None:
        """Keep the most extreme of those kept and of those found; of equal ones the first image."""
        kept = self.extremes[highest]
        weights = torch.cat([kept.weights, found.weights], 1)
        images = torch.cat([kept.images, found.images], 1)
        by_image = images.argsort(dim=1)
        weights, images = weights.gather(1, by_image), images.gather(1, by_image)
        order = weights.argsort(dim=1, descending=highest, stable=True)[:, : self.most]
        self.extremes[highest] = Extremes(weights.gather(1, order), images.gather(1, order))

    def _widen(self, classes: int) -> None:
        more = classes - len(self.class_counts)
        if more > 0:
            self.class_sums = torch.cat(
                [self.class_sums, self.class_sums.new_zeros(more, self.channels)]
            )
            self.class_counts = torch.cat([self.class_counts, self.class_counts.new_zeros(more)])


class Gates(Mapping[str, GateStatistics]):
    """What every gate of a network did: {site: its statistics}, in the order of execution.

    Attributes:
        network: the network's class or name.
        images: how many images were seen.
        classes: the names of the classes; numbers where none were given.
        silent: the sites whose gate did not run.
    """

    def __init__(
        self,
        found: Mapping[str, GateStatistics],
        *,
        network: str,
        images: int,
        classes: tuple[str, ...] = (),
        silent: tuple[str, ...] = (),
    ):
        self._found = dict(found)
        self.network, self.images, self.classes, self.silent = network, images, classes, silent

    def __getitem__(self, site: str) -> GateStatistics:
        return self._found[self.find(site)]

    def __iter__(self) -> Iterator[str]:
        return iter(self._found)

    def __len__(self) -> int:
        return len(self._found)

    def means(self) -> dict[str, torch.Tensor]:
        """{site: mean weights [C]} of the gates with one weight per channel.

        `ab.merge`, `ab.fold(static=...)` and `ab.prune` take these, or the whole `Gates`.
        """
        return {site: g.mean for site, g in self._found.items() if not (g.shared or g.per_position)}

    def find(self, name: str | None = None) -> str:
        """The site that a name means: a site, a module around one, or the paper's Conv4_1.

        Without a name it is the first block of the last stage, as in the paper's Figure 3.

        Raises:
            ValueError: for any other name, with the nearest.
        """
        return find_layer(name, self._shapes())

    def places(self) -> dict[str, str]:
        """{site: its place in the paper's words}: Conv4_1 is the first block of stage 4."""
        return stages(self._shapes())

    def _shapes(self) -> dict[str, Any]:
        return {site: (gate.width, gate.spatial_size) for site, gate in self._found.items()}

    def to_dict(self) -> dict[str, Any]:
        return {
            "network": self.network,
            "images": self.images,
            "classes": list(self.classes),
            "silent": list(self.silent),
            "gates": [gate.to_dict() for gate in self._found.values()],
        }

    def __repr__(self) -> str:
        return f"Gates({len(self)} gates of {self.network}, {self.images:,} images)"

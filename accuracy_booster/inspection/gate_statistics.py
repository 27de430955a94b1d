"""What the gates of a network did over a data set: the statistics of their weights."""

# N images, C channels, K classes, B bins

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch

from accuracy_booster.errors import unknown
from accuracy_booster.inspection.layer_names import find_layer, paper_names

BINS = 40  # of a histogram over [0, scale]; SATURATED is the edge of a bin
SATURATED = 0.05  # a weight is saturated if it is within this share of the scale from an end
CONSTANT = 0.01  # a channel's weight is constant if it spreads less than this share of the scale
DEAD = 0.99  # a channel is dead if this share of its weights is saturated at 0
NO_LABELS = "the images have no labels; give a loader of (images, class numbers)"


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
class Separation:
    """A channel whose weight tells two classes apart.

    Attributes:
        one, other: its mean weight on the images of each class.
        distance: their difference, in units of the channel's spread across all images.
    """

    site: str
    channel: int
    one: float
    other: float
    distance: float


@dataclass(frozen=True)
class GateStatistics:
    """What one gate did. Weights are between 0 and `scale`; shares are of 1.

    Attributes:
        site: the qualified name of the module whose output the gate scales; a second gate at the
            same place (CBAM's) has "#2" after it.
        recipe: the block's text.
        scale: s in p = s * sigmoid(...), where p are the weights.
        width: the number of channels of the map that it scales.
        spatial_size: the sides of the map that it was built for, if known.
        per_position: the gate has a weight for each position; these are means over positions.
        shared: the gate has one weight for all channels. Then C is 1, whatever the width.
        count: how many weights of a channel were seen, usually one per image.
        mean: [C], over the images.
        spread: [C], standard deviation across the images.
        histogram: [C, B], how many weights fall into each of B equal bins of [0, scale].
        highest, lowest: the images with the most extreme weights; None where weights are not one
            per image.
        class_means: [K, C]; rows of classes without images are NaN. It is None unless every image
            has a label, and so are the next two.
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
        """[C], of the histogram, in bits: 0 for a constant weight, log2(40) = 5.3 at most."""
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

    def varying(self, most: int) -> list[int]:
        """The channels whose weight varies most across images."""
        return self.spread.argsort(descending=True, stable=True)[:most].tolist()

    @property
    def explained(self) -> float | None:
        """The share of the gate's variance, all channels together, that the class explains."""
        if self.class_share is None:
            return None
        variance = self.spread.square()
        total = float(variance.sum())
        return float((self.class_share * variance).sum()) / total if total else 0.0

    def separating(self, one: int, other: int, most: int = 5) -> list[Separation]:
        """The channels whose mean weights differ most between two classes, by their numbers.

        Raises:
            ValueError: without labels, or for a class without images.
        """
        if self.class_means is None:
            raise ValueError(NO_LABELS)
        for number in (one, other):
            there = 0 <= number < len(self.class_means)
            if not there or bool(self.class_means[number].isnan().any()):
                raise ValueError(f"class {number} has no images here")
        first, second = self.class_means[one], self.class_means[other]
        distance = (first - second) / self.spread.clamp(min=1e-12)
        order = distance.abs().argsort(descending=True, stable=True)[:most].tolist()
        return [
            Separation(self.site, c, float(first[c]), float(second[c]), float(distance[c]))
            for c in order
        ]

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
            "highest": None if self.highest is None else self.highest.images.tolist(),
            "lowest": None if self.lowest is None else self.lowest.images.tolist(),
        }


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
        try:
            return self._found[self.find(site)]
        except ValueError as e:
            raise KeyError(str(e)) from None

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
        """{site: its name in the paper}: Conv4_1 is the first block of stage 4."""
        return paper_names(self._shapes())

    def separating(self, one: str | int, other: str | int, most: int = 10) -> list[Separation]:
        """The channels of the network whose mean weights differ most between two classes.

        Args:
            one, other: names or numbers of classes.

        Raises:
            ValueError: for a class that does not exist (with the nearest names), or without labels.
        """
        if all(gate.class_means is None for gate in self._found.values()):
            raise ValueError(NO_LABELS)
        numbers = self._class_number(one), self._class_number(other)
        if numbers[0] == numbers[1]:
            raise ValueError(f"{one!r} and {other!r} are one class; name two")
        found = [s for gate in self._found.values() for s in gate.separating(*numbers, most)]
        return sorted(found, key=lambda s: -abs(s.distance))[:most]

    def _class_number(self, name: str | int) -> int:
        if isinstance(name, str) and name in self.classes:
            return self.classes.index(name)
        if isinstance(name, int) and 0 <= name < len(self.classes):
            return name
        raise unknown("class", str(name), self.classes)

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

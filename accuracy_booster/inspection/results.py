"""What an inspection of a network found: its gates, and the accuracy with changed gates."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from accuracy_booster.inspection.statistics import Gates

HIGHEST, LOWEST, RANDOM = "highest", "lowest", "random"  # which channels are zeroed
WHICH = (HIGHEST, LOWEST, RANDOM)
ALLOWED = 0.5  # points that constant gates may cost at most, by the interval's lower end
BY_IMAGE, BY_AVERAGE = "image", "average"  # what they are ranked by


@dataclass(frozen=True)
class Outcome:
    """Accuracy of a network with changed gates.

    Attributes:
        top1: in %.
        change: in points, against the network as it is, on the same images.
        low, high: the 95 % interval of the change, paired over images.
    """

    top1: float
    change: float
    low: float
    high: float

    @property
    def tells(self) -> bool:
        """Whether the interval leaves out 0."""
        return self.low > 0 or self.high < 0


@dataclass(frozen=True)
class Zeroed:
    """Channels removed in every block: a cell of the paper's Table 16.

    Attributes:
        percent: of the channels of each block, rounded to whole channels.
        which: "highest", "lowest" or "random".
    """

    percent: float
    which: str
    outcome: Outcome


@dataclass(frozen=True)
class Inspection:
    """What `ab.inspect` found.

    Attributes:
        title: the network, block and data, in a few words.
        gates: what each gate did.
        top1: of the network as it is, in %.
        images: how many images the accuracies are of.
        frozen: {site: accuracy with this gate alone frozen at its mean weights}.
        all_frozen: accuracy with every gate frozen at its mean weights.
        zeroed: Table 16.
        by: "image" or "average": what channels were ranked by.
        layer: the site of Figure 3.
        split: of the data.
        pictures: {number of an image: uint8 [C, H, W]} of the images that the report shows.
        labels: {number of an image: its class} of the same.
    """

    title: str
    gates: Gates
    top1: float
    images: int
    frozen: Mapping[str, Outcome]
    all_frozen: Outcome
    zeroed: tuple[Zeroed, ...]
    by: str
    layer: str
    split: str
    pictures: Mapping[int, Any]
    labels: Mapping[int, int]

    @property
    def folds_away(self) -> bool:
        """Whether constants in place of all gates cost no accuracy: surely under half a point.

        An interval that holds 0 is not enough, since that of few images is wide.
        """
        return self.all_frozen.low > -ALLOWED

    def summary(self) -> list[str]:
        """What was found, in sentences."""
        lines = [f"Top-1 is {self.top1:.2f} % on {self.images:,} images of the {self.split} split."]
        idle = [site for site, found in self.frozen.items() if not found.tells]
        needed = len(self.frozen) - len(idle)
        lines.append(
            f"{needed} of {len(self.frozen)} gates are needed: with one of them frozen at its mean "
            "weights top-1 changes, by a 95 % interval without 0."
        )
        if idle:
            lines.append(
                f"These, frozen one at a time, change nothing that shows: {', '.join(idle)}."
            )
        every = self.all_frozen
        line = (
            f"All gates frozen together: {every.change:+.2f} points, 95 % interval "
            f"[{every.low:+.2f}, {every.high:+.2f}]."
        )
        if self.folds_away:
            line += (
                f" That is less than {ALLOWED} points: the network folds into the plain one "
                "(accuracy-booster merge)."
            )
        lines.append(line)
        for word, what in (("dead", "next to 0 on all images"), ("constant", "the same on all")):
            channels = {site: getattr(gate, word) for site, gate in self.gates.items()}
            named = [f"{site} ({len(found)})" for site, found in channels.items() if found]
            if named:
                lines.append(f"Channels whose weight is {what} ({word}): {', '.join(named)}.")
        if self.gates.silent:
            lines.append(f"These gates did not run: {', '.join(self.gates.silent)}.")
        return lines

    def to_dict(self) -> dict[str, Any]:
        """Every number, as plain values."""
        return {
            **{"title": self.title, "split": self.split, "top1": self.top1, "images": self.images},
            "frozen": {site: asdict(found) for site, found in self.frozen.items()},
            "all_frozen": asdict(self.all_frozen),
            "folds_away": self.folds_away,
            "zeroed": [
                {"percent": z.percent, "which": z.which, **asdict(z.outcome)} for z in self.zeroed
            ],
            **{"by": self.by, "layer": self.layer},
            **self.gates.to_dict(),
        }

"""What an inspection of a network found: its gates, and the accuracy with changed gates."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from accuracy_booster.inspection.gate_statistics import Gates

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


def idle_of(frozen: Mapping[str, Outcome]) -> list[str]:
    """The sites whose outcome leaves open whether anything changed."""
    return [site for site, outcome in frozen.items() if not outcome.tells]


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
        idle_frozen: accuracy with the `idle` gates frozen together; None if there are none.
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
    idle_frozen: Outcome | None = None

    @property
    def idle(self) -> list[str]:
        """The sites of the gates that, frozen alone, change nothing that the images tell."""
        return idle_of(self.frozen)

    @property
    def folds_away(self) -> bool:
        """Whether constants in place of all gates cost no accuracy: surely under half a point.

        An interval that holds 0 is not enough, since that of few images is wide.
        """
        return self.all_frozen.low > -ALLOWED

    def to_dict(self) -> dict[str, Any]:
        """Every number, as plain values."""
        return {
            **{"title": self.title, "split": self.split, "top1": self.top1, "images": self.images},
            "frozen": {site: asdict(found) for site, found in self.frozen.items()},
            "all_frozen": asdict(self.all_frozen),
            "folds_away": self.folds_away,
            "idle": self.idle,
            "idle_frozen": None if self.idle_frozen is None else asdict(self.idle_frozen),
            "zeroed": [
                {"percent": z.percent, "which": z.which, **asdict(z.outcome)} for z in self.zeroed
            ],
            **{"by": self.by, "layer": self.layer},
            **self.gates.to_dict(),
        }

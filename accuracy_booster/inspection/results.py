"""What `ab.inspect` found: the gates of a network, and its accuracy with changed gates."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from accuracy_booster.inspection.gate_statistics import Gates

HIGHEST, LOWEST, RANDOM = "highest", "lowest", "random"  # which channels are zeroed
WHICH = (HIGHEST, LOWEST, RANDOM)
BY_IMAGE, BY_AVERAGE = "image", "average"  # which weights rank the channels
ALLOWED_LOSS = 0.5  # points of accuracy that a network which folds away may lose at most


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
        """Whether the interval leaves out 0, so that the images tell that something changed."""
        return self.low > 0 or self.high < 0


@dataclass(frozen=True)
class Zeroed:
    """The accuracy with channels zeroed in every block: a cell of the paper's Table 16.

    Attributes:
        percent: of the channels of each block, rounded to whole channels.
        which: "highest", "lowest" or "random".
    """

    percent: float
    which: str
    outcome: Outcome


def idle_of(frozen: Mapping[str, Outcome]) -> list[str]:
    """The sites of the outcomes whose intervals hold 0."""
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
        by: "image" or "average": which weights rank the channels to zero.
        layer: the site of Figure 3.
        split: of the data.
        pictures: {number of an image: uint8 [C, H, W]} of the images that the report shows.
        labels: {number of an image: its class} of the same images.
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
        """The sites of the gates that can be frozen alone without a change that the images tell."""
        return idle_of(self.frozen)

    @property
    def folds_away(self) -> bool:
        """Whether all gates can become constants: they surely cost less than half a point.

        "Surely" means by the lower end of the interval. An interval that holds 0 would not be
        enough, since that of few images is wide.
        """
        return self.all_frozen.low > -ALLOWED_LOSS

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

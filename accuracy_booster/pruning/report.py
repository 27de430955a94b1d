"""What `ab.prune` did: a table that the pruned network carries with it."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from torch import nn

from accuracy_booster.surgery.state import state_of
from accuracy_booster.tables import Table


@dataclass(frozen=True)
class CutReport:
    """What happened to the channels of one `cuts.Cut`.

    Attributes:
        name: a gate's site, or the layer that gives an inner map, in the network before.
        channels: how many there were.
        kept: which of them are left.
        how: by what they were chosen, or why all are left.
    """

    name: str
    channels: int
    kept: tuple[int, ...]
    how: str

    @property
    def smaller(self) -> bool:
        """Whether some channels are gone."""
        return len(self.kept) < self.channels


@dataclass(frozen=True)
class Pruning:
    """What `ab.prune` did; `print(ab.pruning_of(model))` shows it as a table.

    Attributes:
        of, by, keep: the arguments of `ab.prune`.
        places: where channels were removed or could not be.
    """

    of: str
    by: str
    keep: float
    places: list[CutReport]

    def table(self) -> Table:
        """The header and the rows: module, channels, kept, how or why not."""
        rows = [[p.name, f"{p.channels:,}", f"{len(p.kept):,}", p.how] for p in self.places]
        return Table(["module", "channels", "kept", "how, or why not"], rows)

    def summary(self) -> str:
        """How many places are smaller, and how many channels are gone, in one line."""
        smaller = [p for p in self.places if p.smaller]
        gone = sum(p.channels - len(p.kept) for p in smaller)
        return (
            f"pruned by {self.by}: {len(smaller)} of {len(self.places)} places are smaller, "
            f"{gone:,} channels are gone"
        )

    def to_dict(self) -> dict[str, Any]:
        """The report for JSON."""
        return asdict(self)

    def __str__(self) -> str:
        return "\n".join([*self.table().lines(), self.summary()])


def pruning_of(model: nn.Module) -> Pruning:
    """What `ab.prune` did to make a network.

    Raises:
        ValueError: for a network that was not pruned.
    """
    report = state_of(model).pruning if isinstance(model, nn.Module) else None
    if report is None:
        raise ValueError(f"{type(model).__name__} was not made by ab.prune")
    return report


def pruned_channels(model: nn.Module) -> dict[str, list[int]]:
    """{name: the channels that were kept}, where `ab.prune` removed some.

    A name is a gate's site, or the layer that gives an inner map, in the network before.

    Raises:
        ValueError: for a network that was not pruned.
    """
    return {p.name: list(p.kept) for p in pruning_of(model).places if p.smaller}

"""What `ab.fuse` or `ab.fold` did at each site: a table that the network carries with it."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from torch import nn

from accuracy_booster.ops import backend
from accuracy_booster.surgery.state import state_of
from accuracy_booster.tables import Table


@dataclass(frozen=True)
class SiteReport:
    """One site, with a gate or without: whether it takes the fast path, and how or why not."""

    name: str
    fast: bool
    how: str


@dataclass(frozen=True)
class FastPath:
    """What `ab.fuse` or `ab.fold` did; `print(ab.fast_path(model))` shows it as a table.

    Attributes:
        kind: "fused" or "folded".
        places: the sites, in order of execution.
    """

    kind: str
    places: list[SiteReport]

    @property
    def taken(self) -> int:
        """How many sites take the fast path."""
        return sum(site.fast for site in self.places)

    def table(self) -> Table:
        """The header and the rows: module, path, how or why not."""
        rows = [[p.name, "fast" if p.fast else "as before", p.how] for p in self.places]
        return Table(["module", "path", "how, or why not"], rows)

    def summary(self) -> str:
        """How many sites take the fast path, in one line."""
        return f"{self.kind}: {self.taken} of {len(self.places)} places take the fast path"

    def to_dict(self) -> dict[str, Any]:
        """The report for JSON."""
        return {**asdict(self), "taken": self.taken}

    def __str__(self) -> str:
        lines = [*self.table().lines(), self.summary()]
        if self.kind == "fused":
            lines.append(f"in eager mode on the CPU: {backend.eager_on_cpu()}")
        return "\n".join(lines)


def fast_path(model: nn.Module) -> FastPath:
    """What `ab.fuse` or `ab.fold` did at each site of a network.

    Raises:
        ValueError: for a model that is neither fused nor folded.
    """
    report = report_of(model)
    if report is None:
        raise ValueError(
            f"{type(model).__name__} is neither fused nor folded; 'accuracy-booster plan NAME "
            "--fast-path' shows what both would do"
        )
    return report


def report_of(model: nn.Module) -> FastPath | None:
    """The report of a fused or folded network; None for any other.

    Raises:
        ValueError: for what is no module.
    """
    if not isinstance(model, nn.Module):
        raise ValueError(f"expected an nn.Module, got {type(model).__name__}")
    return state_of(model).fast_path

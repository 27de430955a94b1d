"""The plan that `ab.plan` returns: which gates boosting would add, as data and as a table."""

# N batch, C channels, H W space

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from accuracy_booster.blocks import Recipe
from accuracy_booster.surgery.sites import Site
from accuracy_booster.tables import Table


@dataclass(frozen=True)
class PlannedGate:
    """A gate that boosting would add: where, why there, and how many parameters it has."""

    site: Site
    reason: str
    parameters: int


@dataclass(frozen=True)
class Plan:
    """What `ab.boost` would do; `print(plan)` shows it as a table."""

    model: str
    recipe: Recipe
    where: str
    init: str
    gates: list[PlannedGate]
    skipped: list[str] = field(default_factory=list)  # branches without a place for a gate

    @property
    def parameters(self) -> int:
        """What all gates add."""
        return sum(gate.parameters for gate in self.gates)

    def to_dict(self) -> dict[str, Any]:
        """The plan as plain values, for JSON."""
        rows = [
            {**vars(g.site), "reason": g.reason, "parameters": g.parameters} for g in self.gates
        ]
        return {
            **{"model": self.model, "recipe": str(self.recipe), "where": self.where},
            **{"init": self.init, "parameters": self.parameters, "gates": rows},
            "skipped": self.skipped,
        }

    def table(self) -> Table:
        """(header, rows): a row for each gate."""
        header = ["module", "channels", "size", "parameters", "why"]
        rows = []
        for gate in self.gates:
            site = gate.site
            size = "x".join(map(str, site.spatial_size)) or "-"
            layout = "" if site.layout == "NCHW" else f" {site.layout}"
            cells = (site.name, f"{site.channels:,}", size + layout, f"{gate.parameters:,}")
            rows.append([*cells, gate.reason])
        return Table(header, rows)

    def summary(self) -> str:
        """One line: how many gates of which block, and their parameters."""
        count = f"{len(self.gates)} gate{'s' if len(self.gates) != 1 else ''}"
        return f"{self.model}: {count} of {self.recipe}, {self.parameters:,} parameters"

    def __str__(self) -> str:
        lines = self.table().lines()
        return "\n".join([*lines, self.summary(), *(f"skipped: {line}" for line in self.skipped)])

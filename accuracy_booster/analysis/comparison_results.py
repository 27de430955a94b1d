"""What `ab.compare` found: a row for each block, the runs behind it, plain values and a table."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from accuracy_booster.tables import Table
from accuracy_booster.training import TrainResult

LATENCY_BATCH = 64  # images


@dataclass(frozen=True)
class Row:
    """A block's results over the seeds.

    Attributes:
        top1: accuracy in % after the last epoch, of each seed whose training did not diverge.
        top1_mean: None where every seed diverged.
        top1_spread: sample standard deviation; None for fewer than two seeds.
        macs: multiply-adds for one image.
        ms_per_image: milliseconds of inference per image.
        diverged: why a seed's training diverged, by seed.
    """

    block: str
    top1: list[float]
    top1_mean: float | None
    top1_spread: float | None
    parameters: int
    macs: int
    ms_per_image: float
    diverged: dict[int, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Comparison:
    """The result of `ab.compare`, and where its report and runs are.

    Attributes:
        report: the HTML file.
        seconds: how long this call took.
        latency_batch: images in a batch of the latency measurement.
        id: of the comparison; None for one that an older version began.
    """

    rows: list[Row]
    report: Path
    seconds: float
    runs: list[TrainResult]
    latency_batch: int = LATENCY_BATCH
    id: str | None = None

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return {
            "rows": [asdict(row) for row in self.rows],
            "report": str(self.report),
            "seconds": self.seconds,
            "latency_batch": self.latency_batch,
            "id": self.id,
            "runs": [
                {
                    **{"directory": run.output.name, "id": run.id, "block": run.config.block},
                    **{"seed": run.config.seed, "weights_sha256": run.weights_sha256},
                }
                for run in self.runs
            ],
        }

    def table(self) -> Table:
        """One line for each block."""
        header = ["block", "top-1 %", "parameters", "MACs", "ms / image"]
        return Table(header, [_cells(row) for row in self.rows])


def _cells(row: Row) -> list[str]:
    spread = "" if row.top1_spread is None else f" ± {row.top1_spread:.2f}"
    accuracy = "" if row.top1_mean is None else f"{row.top1_mean:.2f}{spread}"
    if row.diverged:
        accuracy += f" ({len(row.diverged)} diverged)" if row.top1 else "diverged"
    costs = [f"{row.parameters:,}", f"{row.macs:,}", f"{row.ms_per_image:.3f}"]
    return [row.block, accuracy, *costs]

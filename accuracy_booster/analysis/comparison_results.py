"""What `ab.compare` found: a row for each block, the runs behind it, plain values and a table."""

from __future__ import annotations

import shlex
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from accuracy_booster.analysis.paired_differences import Difference
from accuracy_booster.report.numbers import signed
from accuracy_booster.tables import Table
from accuracy_booster.training import TrainResult

LATENCY_BATCH = 64  # images
COARSE = 0.1  # points: one image of a small test set is worth so much, or more
NO_BLOCK = "none"


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
        lengthened: the epochs that all runs had ended with before they were made longer.
    """

    rows: list[Row]
    report: Path
    seconds: float
    runs: list[TrainResult]
    latency_batch: int = LATENCY_BATCH
    id: str | None = None
    lengthened: list[int] = field(default_factory=list)

    @property
    def reference(self) -> str:
        """The block that the others are compared with: "none" if it is there, else the first."""
        blocks = [row.block for row in self.rows]
        return NO_BLOCK if NO_BLOCK in blocks else blocks[0]

    def difference(self, block: str) -> Difference | None:
        """Top-1 of a block minus that of the reference in points, within each seed.

        None for the reference, and where no seed has a result of both.
        """
        own, base = self._by_seed(block), self._by_seed(self.reference)
        by_seed = {seed: own[seed] - base[seed] for seed in sorted(own) if seed in base}
        return Difference(by_seed) if by_seed and block != self.reference else None

    def _by_seed(self, block: str) -> dict[int, float]:
        return {r.config.seed: r.test.top1 for r in self.runs if r.config.block == block}

    @property
    def points_of_one_image(self) -> float:
        """The top-1 accuracy in points that one test image is worth."""
        return 100 / self.runs[0].test.images

    def caveats(self) -> list[str]:
        """What one must know to read the table, a sentence or two each; what is plain is left out.

        Their numbers are those of the differences and of the test set.
        """
        found = [self.difference(row.block) for row in self.rows]
        told, lines = [one for one in found if one is not None], list[str]()
        if any(one.interval for one in told):
            lines.append(
                f"Differences to {self.reference} are taken within each seed, with their 95 % "
                "interval (paired t). Where it holds 0, these seeds do not tell the two apart."
            )
        elif told:
            folder = shlex.quote(str(self.report.parent))
            lines.append(
                "There is one seed of each, so no interval: a difference may be chance alone. More "
                f"seeds: accuracy-booster compare --resume {folder} --seeds 5"
            )
        if self.points_of_one_image >= COARSE:
            images = self.runs[0].test.images
            many = f"{images:,} test images" if images > 1 else "one test image"
            lines.append(f"With {many}, one image is {self.points_of_one_image:.2f} points.")
        return lines

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return {
            "rows": [{**asdict(row), "difference": self._plain(row.block)} for row in self.rows],
            "reference": self.reference,
            "points_of_one_image": self.points_of_one_image,
            "report": str(self.report),
            "seconds": self.seconds,
            "latency_batch": self.latency_batch,
            "id": self.id,
            "lengthened": self.lengthened,
            "runs": [
                {
                    **{"directory": run.output.name, "id": run.id, "block": run.config.block},
                    **{"seed": run.config.seed, "weights_sha256": run.weights_sha256},
                }
                for run in self.runs
            ],
        }

    def _plain(self, block: str) -> dict[str, Any] | None:
        """A difference as plain values."""
        if (found := self.difference(block)) is None:
            return None
        interval = None if found.interval is None else list(found.interval)
        by_seed = {str(seed): value for seed, value in found.by_seed.items()}
        return {"mean": found.mean, "interval": interval, "by_seed": by_seed}

    def table(self) -> Table:
        """One line for each block."""
        header = ["block", "top-1 %", f"vs {self.reference}", "parameters", "MACs", "ms / image"]
        return Table(header, [_cells(row, self.difference(row.block)) for row in self.rows])


def _cells(row: Row, difference: Difference | None) -> list[str]:
    spread = "" if row.top1_spread is None else f" ± {row.top1_spread:.2f}"
    accuracy = "" if row.top1_mean is None else f"{row.top1_mean:.2f}{spread}"
    if row.diverged:
        accuracy += f" ({len(row.diverged)} diverged)" if row.top1 else "diverged"
    costs = [f"{row.parameters:,}", f"{row.macs:,}", f"{row.ms_per_image:.3f}"]
    return [row.block, accuracy, _told(difference), *costs]


def _told(difference: Difference | None) -> str:
    """A difference in points, with its interval in brackets where it has one."""
    if difference is None:
        return ""
    mean = signed(difference.mean)
    if difference.interval is None:
        return mean
    low, high = difference.interval
    return f"{mean} [{signed(low)}, {signed(high)}]"

"""How far the tables are: results, the run under way, what is left."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from accuracy_booster.files import check_folder
from accuracy_booster.reproduction.hours import duration, hours_left
from accuracy_booster.reproduction.pausing import is_paused, running
from accuracy_booster.reproduction.places import Places
from accuracy_booster.reproduction.queue import epochs_ended, missing_runs
from accuracy_booster.reproduction.records import Records, read_records
from accuracy_booster.reproduction.specs import plan
from accuracy_booster.reproduction.table import Table
from accuracy_booster.reproduction.words import count
from accuracy_booster.training.lock import is_locked
from accuracy_booster.training.run_config import RunConfig
from accuracy_booster.training.run_files import CONFIG


@dataclass(frozen=True)
class Progress:
    """A table: how many of its runs have a result, and what is left."""

    table: str
    title: str
    done: int
    runs: int
    left: str


@dataclass(frozen=True)
class Status:
    """What `status` found.

    Attributes:
        budget: of the tables' runs.
        tables: one entry a table; runs that tables share count in each.
        working: whether a `reproduce run` is at work here.
        paused: whether it waits for `reproduce continue`.
        run, epoch, epochs: the run under way, "" if there is none.
        results: how many result files there are, of all budgets.
        hours: of compute that they took.
        left_out: files that are no results that count, and why.
    """

    budget: str
    tables: list[Progress]
    working: bool
    paused: bool
    run: str
    epoch: int
    epochs: int
    results: int
    hours: float
    left_out: dict[str, str]

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)

    def lines(self) -> list[str]:
        """What is said beside the table."""
        lines = [f"{count(self.results, 'result')}, {duration(self.hours)} of compute"]
        if self.run:
            lines.append(f"under way: {self.run}, epoch {self.epoch} of {self.epochs} has ended")
        if self.paused:
            lines.append("paused; accuracy-booster reproduce continue goes on")
        elif not self.working:
            lines.append("no reproduce run is at work here")
        for name, reason in self.left_out.items():
            lines.append(f"left out {name}: {reason}")
        return lines


def status(
    tables: Sequence[Table], places: Places, *, budget: str = "short", seeds: int | None = None
) -> Status:
    """How far tables are; nothing is changed.

    Args:
        seeds: how many are wanted; by default what each table declares.

    Raises:
        ValueError: for a budget that there is not, or a number of seeds out of range.
    """
    for folder in (places.results, places.work):
        check_folder(folder)
    records = read_records(places.results)
    progress = [_progress(table, records, budget, seeds) for table in tables]
    under_way = running(places)
    epoch, epochs = (0, 0) if under_way is None else _epochs(under_way)
    return Status(
        budget,
        progress,
        working=places.work.is_dir() and is_locked(places.work),
        paused=is_paused(places),
        run="" if under_way is None else under_way.name,
        epoch=epoch,
        epochs=epochs,
        results=len(records.found),
        hours=records.hours,
        left_out={path.name: reason for path, reason in records.left_out.items()},
    )


def _progress(table: Table, records: Records, budget: str, seeds: int | None) -> Progress:
    runs = plan([table], budget, seeds)
    missing = missing_runs(runs, records)
    left = hours_left(missing, records)
    return Progress(table.name, table.title, len(runs) - len(missing), len(runs), left)


def _epochs(folder: Path) -> tuple[int, int]:
    """How many epochs of a run have ended, and how many it is to have."""
    if not (folder / CONFIG).is_file():
        return 0, 0
    try:
        config, _ = RunConfig.of_any_task((folder / CONFIG).read_text())
        return epochs_ended(folder), config.epochs
    except (OSError, ValueError):
        return 0, 0

"""How far the tables are, for `reproduce status`: results, the run under way, and what is left."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from accuracy_booster.files import check_folder
from accuracy_booster.reproduction.pausing import is_paused
from accuracy_booster.reproduction.phrases import count, duration
from accuracy_booster.reproduction.places import Places
from accuracy_booster.reproduction.result_files import Records, read_records
from accuracy_booster.reproduction.specs import plan
from accuracy_booster.reproduction.table import Table
from accuracy_booster.reproduction.time_left import hours_left
from accuracy_booster.reproduction.work_folder import epochs_ended, running
from accuracy_booster.reproduction.work_list import missing_runs
from accuracy_booster.training.lock import is_locked
from accuracy_booster.training.run_config import RunConfig
from accuracy_booster.training.run_files import CONFIG


@dataclass(frozen=True)
class Progress:
    """How many of a table's runs have a result, and how long the others will take."""

    table: str
    title: str
    done: int
    runs: int
    left: str


@dataclass(frozen=True)
class Status:
    """What `status` found.

    Attributes:
        budget: the budget that was asked for.
        tables: one entry for each table; a run that tables share counts in each of them.
        working: whether a `reproduce run` is at work in the work folder.
        paused: whether it waits for `reproduce continue`.
        run: the name of the run under way; "" if there is none.
        epoch, epochs: how many epochs of it have ended, of how many.
        results: the number of results, of all budgets.
        hours: the compute that they took.
        left_out: files that do not count as results, and why.
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
        """Plain values for JSON."""
        return asdict(self)

    def lines(self) -> list[str]:
        """The lines that stand below the table on the terminal."""
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
    """How far tables are. No file is changed.

    Args:
        seeds: the number of seeds wanted; by default the number that each table declares.

    Raises:
        ValueError: for an unknown budget, or a number of seeds out of range.
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
    """How many epochs of a run have ended, of how many; (0, 0) while its files cannot be read."""
    if not (folder / CONFIG).is_file():
        return 0, 0
    try:
        config, _ = RunConfig.of_any_task((folder / CONFIG).read_text())
        return epochs_ended(folder), config.epochs
    except (OSError, ValueError):
        return 0, 0

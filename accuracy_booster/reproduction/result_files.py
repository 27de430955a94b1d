"""The result files: one small JSON file for each run. The report is made from them alone.

Each file holds a hash of its own content. Reading names and leaves out a file that is damaged, is
of another version of the code, or has another name than the run that it holds.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from accuracy_booster.errors import shown
from accuracy_booster.files import read_json, write_json
from accuracy_booster.progress import note
from accuracy_booster.reproduction.record import Record
from accuracy_booster.reproduction.record_checks import check_record
from accuracy_booster.reproduction.specs import CODE_VERSION, Spec
from accuracy_booster.training import new_dir

FORMAT = 1  # of the files


@dataclass(frozen=True)
class Records:
    """The results in a folder.

    Attributes:
        found: by the hash of the configuration and the seed.
        left_out: the files that do not count, and why.
    """

    found: dict[tuple[str, int], Record]
    left_out: dict[Path, str]

    @property
    def hours(self) -> float:
        """The hours of compute of all results."""
        return sum(record.seconds for record in self.found.values()) / 3600


def read_records(folder: Path) -> Records:
    """Every result in a folder; none if there is no folder."""
    found, left_out = dict[tuple[str, int], Record](), dict[Path, str]()
    for path in sorted(folder.glob("*.json")):
        try:
            record = read_record(path)
        except (OSError, ValueError) as e:
            reason = str(getattr(e, "strerror", None) or e)
            left_out[path] = reason.replace(f"{path.name} is damaged", "it is damaged", 1)
        else:
            found[record.key] = record
    return Records(found, left_out)


def read_record(path: Path) -> Record:
    """The result in a file.

    Raises:
        OSError: if the file cannot be read.
        ValueError: if it is damaged, of another version of the code, or named after another run.
    """
    value = read_json(path, must_hold_hash=True)
    try:
        version = value["about"]["code"]["version"]
        if value["format"] != FORMAT or version != CODE_VERSION:
            raise ValueError(
                f"it is of version {version} of the code, and this is version {CODE_VERSION}; "
                "its run is to be made again"
            )
        spec = Spec.from_json(value["run"])
        if spec.hash != value["configuration_hash"]:
            raise ValueError(
                "its configuration means something else in this version of the package; its run "
                "is to be made again"
            )
        if path.stem != spec.name:
            raise ValueError(f"it holds the result of {spec.name}, and is not named after it")
        diverged, about = str(value["diverged"]), dict(value["about"])
        values = {str(name): _number(number) for name, number in value["values"].items()}
        rows = [{str(k): _number(v) for k, v in row.items()} for row in value["epochs"]]
        record = Record(
            *(spec, values, rows, _number(value["seconds"]), diverged, value["data"], about)
        )
    except (LookupError, TypeError, AttributeError, OverflowError, RecursionError) as e:
        raise ValueError(f"it is damaged: {type(e).__name__} {e}") from None
    check_record(record)
    return record


def _number(value: Any) -> float:
    """A finite number.

    Raises:
        ValueError: for anything else.
    """
    number = float(value) if type(value) in (int, float) else math.nan
    if not math.isfinite(number):
        raise ValueError(f"it holds {shown(value)} where a finite number must be")
    return number


def write_record(folder: Path, record: Record) -> Path:
    """Write a result to FOLDER/NAME.json, where NAME is the run's name; returns the path.

    Raises:
        CannotWrite: if there is no room on the disk.
    """
    path = folder / f"{record.spec.name}.json"
    _move_invalid_aside(path)
    write_json(
        path,
        {
            "format": FORMAT,
            "run": record.spec.to_json(),
            "configuration": record.spec.settings,
            "configuration_hash": record.spec.hash,
            "values": dict(record.values),
            "diverged": record.diverged,
            "seconds": round(record.seconds, 1),
            "epochs": record.epochs,
            "data": record.data,
            "about": dict(record.about),
        },
    )
    return path


def _move_invalid_aside(path: Path) -> None:
    """Rename a file at this path that is no valid result, so that it is not overwritten."""
    if not path.exists():
        return
    try:
        read_record(path)
    except (OSError, ValueError) as e:
        aside = new_dir(path.with_name(f"{path.name}.left-out"))
        path.rename(aside)
        note(f"{path.name} did not count ({e}); it is now {aside.name}")

"""A result: one small JSON file a run, from which the report is made alone.

Each file holds the hash of its own content. One that is damaged, of another version of the code,
or not named after what it holds is named and left out.
"""

from __future__ import annotations

import math
import platform
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import torch

from accuracy_booster.analysis.measuring import processor
from accuracy_booster.detection.metrics import DetectionMetrics
from accuracy_booster.errors import shown
from accuracy_booster.files import read_json, write_json
from accuracy_booster.progress import note
from accuracy_booster.reproduction.specs import CODE_VERSION, Spec
from accuracy_booster.reproduction.table import AP, AP50, GATES, MERGED, TIME, WHICH
from accuracy_booster.training import new_dir
from accuracy_booster.version import __version__

FORMAT = 1  # of the files
OF_DETECTORS = {f.name for f in fields(DetectionMetrics)} - {"images"}
PACKAGES = ("torch", "torchvision", "timm", "accelerate", "numpy")


@dataclass(frozen=True)
class Record:
    """What a run came to.

    Attributes:
        spec: what was run.
        values: top1 and top5 of the last epoch in %, and those of the network before its training
            where gates became constants; of a detector COCO's numbers in %, but for those of a kind
            of objects that the images do not have; of a table of times the seconds per batch by
            block; of one of gates the accuracies with changed gates. Empty if the training
            diverged.
        epochs: the rows of the learning curve.
        seconds: of the training, with its compilation and its measurements.
        diverged: why there is no accuracy, or "".
        data: what tells its images from others (`datasets.summary`): runs of different images are
            not compared.
        about: the machine and the software.
    """

    spec: Spec
    values: Mapping[str, float]
    epochs: list[dict[str, float]] = field(default_factory=list)
    seconds: float = 0.0
    diverged: str = ""
    data: Any = None
    about: Mapping[str, Any] = field(default_factory=dict)

    @property
    def key(self) -> tuple[str, int]:
        return self.spec.key


def in_words(record: Record) -> str:
    """A result in a few words."""
    if record.diverged:
        return f"diverged: {record.diverged}"
    if "top1" in record.values:
        return f"top-1 {record.values['top1']:.2f} %, {record.seconds:.0f} s"
    if record.spec.measures == AP:
        ap, ap50 = record.values[AP], record.values[AP50]
        return f"AP {ap:.1f} %, AP50 {ap50:.1f} %, {record.seconds:.0f} s"
    times = ", ".join(f"{block} {value:.4f} s" for block, value in record.values.items())
    return f"{times} per batch"


def write_record(folder: Path, record: Record) -> Path:
    """Write a result; returns its path.

    Raises:
        CannotWrite: if there is no room.
    """
    path = folder / f"{record.spec.name}.json"
    _keep_another(path)
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


def read_record(path: Path) -> Record:
    """A result.

    Raises:
        OSError: if it cannot be read.
        ValueError: if it is damaged, of another version of the code, or another run's.
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
    _check_values(record)
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


def _check_values(record: Record) -> None:
    """Raise ValueError for a result that no run can have come to."""
    if record.seconds < 0:
        raise ValueError(f"it took {record.seconds:g} seconds")
    if record.diverged:
        if record.values:
            raise ValueError("it diverged, and holds a result")
        return
    if record.spec.measures == TIME:
        if set(record.values) != set(record.spec.options["blocks"]):
            raise ValueError("it does not hold the time of each block")
        if min(record.values.values()) <= 0:
            raise ValueError("it holds a time that is not above 0")
        return
    if record.spec.measures == GATES:
        cells = {f"{which} {p:g}" for which in WHICH for p in record.spec.options["percents"]}
        if set(record.values) != {"top1", "frozen", *cells}:
            raise ValueError("it does not hold the accuracy with each change of the gates")
        if not all(0 <= value <= 100 for value in record.values.values()):
            raise ValueError("it holds an accuracy that is not from 0 to 100 %")
        return
    if record.spec.measures == AP:
        _check_detector(record)
        return
    before = set(MERGED) if record.spec.options.get("merged") else set()
    if set(record.values) != {"top1", "top5"} | before:
        raise ValueError("it holds no top-1 and top-5 accuracy")
    if not all(0 <= record.values[name] <= 100 for name in before):
        raise ValueError("it holds an accuracy that is not from 0 to 100 %")
    top1, top5 = record.values["top1"], record.values["top5"]
    if not 0 <= top1 <= top5 <= 100:
        raise ValueError(f"its accuracies are {top1:g} and {top5:g}, not from 0 to 100 %")
    _check_curve(record, "top1", "top-1")


def _check_detector(record: Record) -> None:
    """The same for COCO's numbers."""
    if not {AP, AP50} <= set(record.values) <= OF_DETECTORS:
        raise ValueError("it does not hold AP, AP50 and COCO's other numbers")
    if not all(0 <= value <= 100 for value in record.values.values()):
        raise ValueError("it holds a number that is not from 0 to 100 %")
    ap, ap50 = record.values[AP], record.values[AP50]
    if ap > ap50 + 1e-6:
        raise ValueError(f"its AP is {ap:g}, and its AP50, which is never less, {ap50:g}")
    _check_curve(record, AP, "AP")


def _check_curve(record: Record, name: str, said: str) -> None:
    """Raise ValueError for a learning curve of another length, or with another end."""
    epochs = record.spec.config.epochs
    if len(record.epochs) != epochs:
        raise ValueError(f"it holds {len(record.epochs)} epochs, and its run has {epochs}")
    last, value = record.epochs[-1].get(f"test_{name}", math.nan), record.values[name]
    if not abs(last - value) < 0.01:  # metrics.csv has six digits
        raise ValueError(f"its {said} is {value:g}, and its last epoch's {last:g}")


def _keep_another(path: Path) -> None:
    """Move a file that is no result that counts out of the way of one that does."""
    if not path.exists():
        return
    try:
        read_record(path)
    except (OSError, ValueError) as e:
        aside = new_dir(path.with_name(f"{path.name}.left-out"))
        path.rename(aside)
        note(f"{path.name} did not count ({e}); it is now {aside.name}")


@dataclass(frozen=True)
class Records:
    """The results in a folder, by hash and seed, and what is wrong with files left out."""

    found: dict[tuple[str, int], Record]
    left_out: dict[Path, str]

    @property
    def hours(self) -> float:
        return sum(record.seconds for record in self.found.values()) / 3600


def read_records(folder: Path) -> Records:
    """Every result in a folder; an empty one if there is no folder."""
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


def about(*, begun: float, more: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """The machine and the software of this process."""
    from importlib.metadata import version

    cuda = torch.cuda.is_available()
    return {
        "code": {"version": CODE_VERSION, "package": __version__, "commit": _commit()},
        "packages": {name: version(name) for name in PACKAGES},
        "python": platform.python_version(),
        "processor": torch.cuda.get_device_name() if cuda else processor(),
        "instructions": torch.backends.cpu.get_cpu_capability(),
        "threads": torch.get_num_threads(),
        "began": _utc(begun),
        "ended": _utc(),
        **(more or {}),
    }


def _utc(moment: float | None = None) -> str:
    now = datetime.now(timezone.utc)
    when = now if moment is None else datetime.fromtimestamp(moment, timezone.utc)
    return when.strftime("%Y-%m-%dT%H:%M:%SZ")


def _commit() -> str | None:
    """The commit of the checkout that this file is in, with -dirty if files differ from it."""
    here = Path(__file__)
    # a package that is installed within a checkout has not that checkout's commit
    own = _git(here.parent, "ls-files", "--error-unmatch", here.name)
    return own and _git(here.parent, "describe", "--always", "--dirty", "--abbrev=12", "--match=")


def _git(folder: Path, *words: str) -> str | None:
    """What git says in a folder; None if it is not there, or refuses."""
    try:
        told = subprocess.run(
            ["git", *words], cwd=folder, capture_output=True, text=True, timeout=10
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return told.stdout.strip() or None if told.returncode == 0 else None

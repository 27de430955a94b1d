"""Tiny tables whose runs tests make: classification on the digits, in seconds."""

from __future__ import annotations

import json
import subprocess
import sys
from contextlib import redirect_stderr
from dataclasses import replace
from pathlib import Path
from typing import IO, Any

import pytest

from accuracy_booster.reproduction import Places, Record, Row, Spec, Table, plan, run_process, work

ROWS = tuple(Row(block, "resnet8", block) for block in ("none", "ab"))
TINY = Table("tiny", "a tiny network on the digits", "cifar10", ROWS, seeds=1)
# a run that takes long enough to be interrupted
LONG = replace(TINY, name="long", rows=ROWS[1:], settings={"epochs": 12, "batch_size": 128})


def places(folder: Path) -> Places:
    return Places(results=folder / "results", work=folder / "work")


def specs(table: Table = TINY, seeds: int = 1) -> list[Spec]:
    """The runs of a table at the budget smoke."""
    return plan([table], "smoke", seeds)


def small(name: str = "t", **more: Any) -> Table:
    """A table of three networks that no test trains."""
    rows = tuple(Row(block, "resnet8", block) for block in ("none", "se", "ab"))
    return replace(Table(name, "small networks", "cifar10", rows, seeds=2), **more)


class InThisProcess:
    """In place of the process of a run: makes the run here, where everything is imported."""

    stdin = None

    def __init__(self, spec: Spec, places: Places, *, log: IO[str]):
        with redirect_stderr(log):
            self.returncode = run_process.make(spec, places)

    def poll(self) -> int:
        return self.returncode


def make_here(table: Table, folder: Path) -> list[Record]:
    """Make the runs of a table in this process; returns the results."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(run_process, "start", InThisProcess)
        return work(specs(table), places(folder)).done


def copied(made: Path, folder: Path) -> Places:
    """The results of `made`, copied into another folder."""
    (folder / "results").mkdir()
    for path in (made / "results").iterdir():
        (folder / "results" / path.name).write_bytes(path.read_bytes())
    return places(folder)


def refuse(*_: object, **__: object) -> None:
    """In place of what starts a run, where none must be started."""
    pytest.fail("a run was started")


def queue_process(folder: Path, table: Table) -> subprocess.Popen[bytes]:
    """A process that makes the runs of a table, as `reproduce run`. It writes FOLDER/stderr."""
    code = (
        "import json, sys; from pathlib import Path\n"
        "from accuracy_booster.reproduction import Places, Spec, work\n"
        "specs = [Spec.from_json(s) for s in json.loads(sys.argv[1])]\n"
        "where = Path(sys.argv[2])\n"
        "work(specs, Places(results=where / 'results', work=where / 'work'))\n"
    )
    listed = json.dumps([spec.to_json() for spec in specs(table)])
    with (folder / "stderr").open("w") as log:
        return subprocess.Popen([sys.executable, "-c", code, listed, str(folder)], stderr=log)


def epochs_of(folder: Path, spec: Spec | None = None) -> int:
    """How many epochs of a run have ended; by default of that of `LONG`."""
    path = places(folder).run(spec or specs(LONG)[0]) / "metrics.csv"
    return len(path.read_text().splitlines()) - 1 if path.exists() else 0


def curve(record: Record) -> list[tuple[float, float]]:
    """The learning curve of a result."""
    return [(row["train_loss"], row["test_top1"]) for row in record.epochs]

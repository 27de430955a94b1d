"""Which runs were given to Slurm, and what has become of their jobs.

`jobs.json` in the work folder says which job makes a run. It is what keeps two machines from
training in one directory: a run's own lock need not work on a disk that several machines share.
"""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Collection, Mapping
from pathlib import Path

from accuracy_booster.files import read_json, write_json

JOBS = "jobs.json"
# Slurm keeps an ended job in its queue for some minutes (MinJobAge), and then forgets it
FORGOTTEN = "FORGOTTEN"
ENDED_WELL = (FORGOTTEN, "COMPLETED")
ENDED = (
    *ENDED_WELL,
    *("BOOT_FAIL", "CANCELLED", "DEADLINE", "FAILED", "NODE_FAIL", "OUT_OF_MEMORY", "PREEMPTED"),
    *("REVOKED", "TIMEOUT"),
)


def read(work: Path) -> dict[str, str]:
    """The job of each run by name, such as "12_0"; jobs that have ended may be among them.

    Raises:
        ValueError: if the file is damaged.
    """
    try:
        value = read_json(work / JOBS, must_hold_hash=True)
    except FileNotFoundError:
        return {}
    return {str(name): str(job) for name, job in value.get("jobs", {}).items()}


def write(work: Path, known: Mapping[str, str]) -> None:
    """Note the job of each run by name, in place of what was noted before.

    Raises:
        CannotWrite: if there is no room.
    """
    write_json(work / JOBS, {"jobs": dict(known)})


def forget(work: Path, names: Collection[str]) -> None:
    """Leave out runs whose jobs have ended."""
    known = read(work)
    if any(name in known for name in names):
        write(work, {name: job for name, job in known.items() if name not in names})


def under_way(work: Path) -> dict[str, str]:
    """The jobs that wait or run, by the names of their runs.

    Raises:
        ValueError: if Slurm cannot be asked.
    """
    known = read(work)
    if not known:
        return {}
    try:
        found = states()
    except ValueError as e:
        raise ValueError(
            f"{work / JOBS} says that Slurm makes runs of this folder, and Slurm does not say "
            f"whether it still does: {e}; run this where Slurm is, or remove the file if its jobs "
            "are gone"
        ) from None
    return {name: job for name, job in known.items() if found.get(job, FORGOTTEN) not in ENDED}


def states() -> dict[str, str]:
    """The state of each job of this user that Slurm knows, such as {"12_0": "RUNNING"}.

    `squeue` is asked: `sacct` needs an accounting database, which not every cluster has.

    Raises:
        ValueError: if it does not answer.
    """
    program = shutil.which("squeue")
    if program is None:
        raise ValueError("squeue was not found on this machine")
    words = ["--noheader", "--array", "--states=all", f"--user={os.getuid()}", "--format=%i|%T"]
    try:
        told = subprocess.run([program, *words], capture_output=True, text=True, timeout=60)
    except (OSError, subprocess.TimeoutExpired) as e:
        raise ValueError(f"squeue failed: {e}") from e
    if told.returncode != 0:
        raise ValueError(f"squeue failed: {' '.join(told.stderr.split())[:300]}")
    rows = (line.strip().split("|") for line in told.stdout.splitlines())
    return {row[0]: row[1] for row in rows if len(row) == 2}

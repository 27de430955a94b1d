"""Which runs were given to Slurm (`jobs.json`), and the states of their jobs (`squeue`).

`jobs.json` in the work folder says which job makes a run. It keeps two machines from training in
one directory. The lock of a run cannot do that, because locks may not work on a disk that several
machines share.
"""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Collection, Mapping
from pathlib import Path

from accuracy_booster.files import read_json, write_json

JOBS = "jobs.json"
# our word for a job that Slurm no longer lists: it forgets a job minutes after its end (MinJobAge)
FORGOTTEN = "FORGOTTEN"
ENDED_WELL = (FORGOTTEN, "COMPLETED")
ENDED = (
    *ENDED_WELL,
    *("BOOT_FAIL", "CANCELLED", "DEADLINE", "FAILED", "NODE_FAIL", "OUT_OF_MEMORY", "PREEMPTED"),
    *("REVOKED", "TIMEOUT"),
)


def read(work: Path) -> dict[str, str]:
    """The job of each run, such as "12_0", by the run's name. Jobs that have ended may be included.

    Raises:
        ValueError: if the file is damaged.
    """
    try:
        value = read_json(work / JOBS, must_hold_hash=True)
    except FileNotFoundError:
        return {}
    return {str(name): str(job) for name, job in value.get("jobs", {}).items()}


def write(work: Path, known: Mapping[str, str]) -> None:
    """Replace `jobs.json` by the job of each run.

    Raises:
        CannotWrite: if there is no room on the disk.
    """
    write_json(work / JOBS, {"jobs": dict(known)})


def forget(work: Path, names: Collection[str]) -> None:
    """Remove runs, whose jobs have ended, from `jobs.json`."""
    known = read(work)
    if any(name in known for name in names):
        write(work, {name: job for name, job in known.items() if name not in names})


def under_way(work: Path) -> dict[str, str]:
    """The jobs that wait or run, by the names of their runs.

    Raises:
        ValueError: if `jobs.json` names jobs and Slurm cannot be asked for their states.
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
    """The state of each job of this user that Slurm lists, such as {"12_0": "RUNNING"}.

    `squeue` is asked, because `sacct` needs an accounting database, which not every cluster has.

    Raises:
        ValueError: if `squeue` is not installed, or fails.
    """
    program = shutil.which("squeue")
    if program is None:
        raise ValueError("squeue was not found on this machine")
    words = ["--noheader", "--array", "--states=all", f"--user={os.getuid()}", "--format=%i|%T"]
    try:
        done = subprocess.run([program, *words], capture_output=True, text=True, timeout=60)
    except (OSError, subprocess.TimeoutExpired) as e:
        raise ValueError(f"squeue failed: {e}") from e
    if done.returncode != 0:
        raise ValueError(f"squeue failed: {' '.join(done.stderr.split())[:300]}")
    rows = (line.strip().split("|") for line in done.stdout.splitlines())
    return {row[0]: row[1] for row in rows if len(row) == 2}

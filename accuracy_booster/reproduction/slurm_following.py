"""Follow Slurm jobs to their ends: tell what happens to them, and collect their results."""

from __future__ import annotations

import os
import time
from collections.abc import Mapping
from pathlib import Path

from accuracy_booster.errors import TrainingInterrupted, TrainingStopped
from accuracy_booster.progress import note
from accuracy_booster.reproduction import slurm_jobs
from accuracy_booster.reproduction.pausing import POLL
from accuracy_booster.reproduction.places import Places
from accuracy_booster.reproduction.record import Record, in_words
from accuracy_booster.reproduction.result_files import read_record
from accuracy_booster.reproduction.slurm_options import submitit
from accuracy_booster.reproduction.work_folder import alone
from accuracy_booster.reproduction.work_list import Worked
from accuracy_booster.signals import StopRequest

FOLDER = "slurm"  # submitit's files, in the work folder
LONGEST = 30.0  # the longest time between two questions to Slurm, in seconds
SETTLE = 15.0  # seconds until a file of another machine is visible on a shared disk


def follow(jobs: Mapping[str, str], places: Places, worked: Worked, asked: StopRequest) -> None:
    """Wait until all jobs have ended, with a line on the terminal for each change.

    Args:
        jobs: the job of each run, by the run's name.
        worked: receives the results and the errors.
        asked: the signal that this process has received, if any.

    Raises:
        TrainingInterrupted: after a signal.
    """
    seen, ended = dict[str, str](), dict[str, float]()
    left, pause = dict(jobs), POLL
    while left:
        states = _states(asked)
        os.listdir(places.results)  # makes a shared disk look for files of other machines
        for name, job in list(left.items()):
            state = states.get(job, slurm_jobs.FORGOTTEN)
            if _tell(name, job, seen.get(name, "PENDING"), state):
                pause = POLL
            seen[name] = state
            if state not in slurm_jobs.ENDED:
                ended.pop(name, None)
                continue
            since = time.monotonic() - ended.setdefault(name, time.monotonic())
            found = _result(name, job, state, places, final=since > SETTLE)
            if found is None:
                continue
            del left[name]
            number = f"run {len(jobs) - len(left)} of {len(jobs)}"
            if isinstance(found, Record):
                worked.done.append(found)
                note(f"{number}: {name}: {in_words(found)}")
            else:
                worked.failed[name] = found
                note(f"{number}: {name} failed: {found}")
        _wait(pause if left else 0, asked)
        pause = min(LONGEST, 1.5 * pause)
    try:
        with alone(places.work):
            slurm_jobs.forget(places.work, jobs)
    except ValueError:  # another process works here; a later call forgets the jobs
        return


def _states(asked: StopRequest) -> dict[str, str]:
    """The states of all jobs. If Slurm does not answer, it is asked again until it does."""
    was_told = False
    while True:
        try:
            return slurm_jobs.states()
        except ValueError as e:
            if not was_told:
                note(f"Slurm does not answer, so it is asked again: {e}")
            was_told = True
            _wait(LONGEST, asked)


def _wait(seconds: float, asked: StopRequest) -> None:
    """Sleep; raise TrainingInterrupted as soon as a signal comes."""
    deadline = time.monotonic() + seconds
    while True:
        if asked.signal is not None:
            raise TrainingInterrupted(
                f"stopped by signal {asked.signal}; the jobs go on, and the same command follows "
                "them again",
                asked.signal,
            )
        if time.monotonic() >= deadline:
            return
        time.sleep(min(POLL, seconds))


def _tell(name: str, job: str, before: str, state: str) -> bool:
    """Print a change of state, unless the job has ended; returns whether the state changed."""
    if state == before:
        return False
    if state not in slurm_jobs.ENDED and state != "COMPLETING":
        again = "requeued: it goes on from its checkpoint" if state == "PENDING" else state.lower()
        note(f"{name}: {again} (job {job})")
    return True


def _result(name: str, job: str, state: str, places: Places, *, final: bool) -> Record | str | None:
    """The result of an ended job, or why it failed; None while a result may still become visible.

    Args:
        final: whether the job ended so long ago that its result would be visible by now.
    """
    path = places.result(name)
    try:
        return read_record(path)
    except (OSError, ValueError) as e:
        if state in slurm_jobs.ENDED_WELL and not final:
            return None
        if state == "COMPLETED" and path.exists():
            return f"its result does not count: {e}"
    paths = submitit().core.utils.JobPaths(places.work / FOLDER, job_id=job)
    how = "" if state in ("FAILED", slurm_jobs.FORGOTTEN) else f"{state.lower()}, "
    return f"{_reason(paths.stderr, state)} ({how}job {job}; see {paths.stderr})"


def _reason(log: Path, state: str) -> str:
    """Why a job failed: the message of our own error in its log, else the log's last line."""
    try:
        lines = [line.strip() for line in log.read_text(errors="replace").splitlines()]
    except OSError:
        return "it wrote no log; the work folder must be on a disk that all nodes share"
    prefix = f"{TrainingStopped.__module__}.{TrainingStopped.__name__}: "
    own = [line.removeprefix(prefix) for line in lines if line.startswith(prefix)]
    if state == "FAILED" and own:
        return own[-1][:500]
    return next((line for line in reversed(lines) if line), "no message")[:500]

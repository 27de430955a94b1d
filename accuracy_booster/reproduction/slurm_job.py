"""What a Slurm job does on its node: it makes one run, and stops it in time to be requeued.

The run is made in a process of its own (`run_process`), as in the local queue. So submitit can
handle the signals of the job's process, and the trainer those of the run's process.
"""

from __future__ import annotations

import os
import signal
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from accuracy_booster.errors import TrainingStopped
from accuracy_booster.reproduction import run_process, slurm_jobs
from accuracy_booster.reproduction.pausing import POLL
from accuracy_booster.reproduction.places import Places
from accuracy_booster.reproduction.specs import Spec
from accuracy_booster.training.lock import is_locked

PATIENCE = 60.0  # seconds that a job waits for `jobs.json` to name it, or for its end


class Job:
    """Makes a run. submitit pickles it, calls it on the node, and calls `checkpoint` at the end.

    Args:
        spec, places: the run and the directories, as their `to_json` gives them.
    """

    def __init__(self, spec: dict[str, Any], places: dict[str, str | None]):
        self.spec, self.places = spec, places
        self._process: subprocess.Popen[bytes] | None = None
        self._told_to_end = False

    def __call__(self) -> None:
        """Make the run, or continue it.

        Raises:
            TrainingStopped: if it fails, with the last line of its log; or if `jobs.json` gives the
                run to another job.
        """
        spec, places = Spec.from_json(self.spec), Places.from_json(self.places)
        _check_owner(spec.name, places.work, _own_id())
        # Slurm sends SIGTERM to every process of a job some time before it kills them
        signal.signal(signal.SIGTERM, self._note_end)
        log = places.log(spec.name)
        while code := self._make(spec, places, log):
            time.sleep(POLL)  # the signal may reach the run before it reaches this process
            if not self._told_to_end:
                raise TrainingStopped(f"{run_process.last_line(log)}{_cause(code)}")
            time.sleep(PATIENCE)  # this process is now killed, or `checkpoint` is called
            self._told_to_end = False

    def checkpoint(self) -> Any:
        """Stop the run, which saves a checkpoint; returns the job that submitit is to requeue."""
        from submitit.helpers import DelayedSubmission

        if self._process is not None:
            run_process.stop(self._process)
        return DelayedSubmission(Job(self.spec, self.places))

    def _note_end(self, *_: object) -> None:
        self._told_to_end = True

    def _make(self, spec: Spec, places: Places, log: Path) -> int:
        """Make the run in a process of its own; returns the exit code."""
        run = places.run(spec)
        while run.is_dir() and is_locked(run):  # by the process of a former job, which still ends
            time.sleep(POLL)
        with log.open("a") as lines:
            with _signal_blocked():
                self._process = run_process.start(spec, places, log=lines, nice=False)
            # A signal may call `checkpoint` at any point here, and it waits for the same process.
            # Popen.wait holds a lock, which `checkpoint` could then never get. So it is called only
            # after the process has ended and `checkpoint` no longer sees it.
            os.waitid(os.P_PID, self._process.pid, os.WEXITED | os.WNOWAIT)
            process, self._process = self._process, None
            return process.wait()


@contextmanager
def _signal_blocked() -> Iterator[None]:
    """Block submitit's signal, so that processes started here inherit the block.

    Slurm sends the signal to all processes of a job. It is meant for this one. The trainer has no
    handler for it, and would die.
    """
    from submitit import JobEnvironment

    number = getattr(signal, f"SIG{JobEnvironment.USR_SIG}")
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {number})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _own_id() -> str:
    from submitit import JobEnvironment

    return JobEnvironment().job_id


def _check_owner(name: str, work: Path, own: str) -> None:
    """Raise TrainingStopped unless `jobs.json` gives the run to this job.

    A `submit` that is killed right after calling sbatch leaves jobs that are in no `jobs.json`.
    Its runs are submitted again later, and two jobs must not train in one directory.
    """
    deadline = time.monotonic() + PATIENCE
    while (owner := slurm_jobs.read(work).get(name)) != own:
        if time.monotonic() > deadline:
            who = f"it was given to job {owner}" if owner else "it was given to no job"
            raise TrainingStopped(
                f"job {own} does not make {name}: {who}, says {work / slurm_jobs.JOBS}; run the "
                "same command again"
            )
        time.sleep(POLL)


def _cause(code: int) -> str:
    """What an exit code adds to the last line of a log."""
    if code == run_process.NO_ROOM:
        return f"; {run_process.WHEN_THERE_IS_ROOM}"
    return f"; it was killed by signal {-code}" if code < 0 else ""

"""What a job of Slurm does on its node: make one run, and stop it in time to be requeued.

The training is a process of its own, as in the local queue: submitit answers the signals of this
process, and the trainer those of its own.
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
from accuracy_booster.reproduction import child, jobs
from accuracy_booster.reproduction.pausing import POLL
from accuracy_booster.reproduction.places import Places
from accuracy_booster.reproduction.specs import Spec
from accuracy_booster.training.lock import is_locked

PATIENCE = 60.0  # seconds


class Job:
    """Makes a run: a callable that submitit pickles, and asks for a checkpoint when it has to end.

    Args:
        spec, places: as `to_json` gives them.
    """

    def __init__(self, spec: dict[str, Any], places: dict[str, str | None]):
        self.spec, self.places = spec, places
        self._process: subprocess.Popen[bytes] | None = None
        self._told_to_end = False

    def __call__(self) -> None:
        """Make the run, or go on with it.

        Raises:
            TrainingStopped: with the last line of the run's log.
        """
        spec, places = Spec.from_json(self.spec), Places.from_json(self.places)
        _check_owner(spec.name, places.work, _own_id())
        # Slurm sends it to every process of a job some time before it kills them
        signal.signal(signal.SIGTERM, self._hear)
        log = places.log(spec.name)
        while code := self._make(spec, places, log):
            time.sleep(POLL)  # the signal may have reached the run first
            if not self._told_to_end:
                raise TrainingStopped(f"{child.last_line(log)}{_told(code)}")
            time.sleep(PATIENCE)  # until this process is killed, or told to checkpoint
            self._told_to_end = False

    def checkpoint(self):
        """Stop the run, which saves where it is; what submitit is to requeue."""
        from submitit.helpers import DelayedSubmission

        if self._process is not None:
            child.stop(self._process)
        return DelayedSubmission(Job(self.spec, self.places))

    def _hear(self, *_: object) -> None:
        self._told_to_end = True

    def _make(self, spec: Spec, places: Places, log: Path) -> int:
        """Make the run in a process of its own; its exit code."""
        run = places.run(spec)
        while run.is_dir() and is_locked(run):  # the process of a job that was killed
            time.sleep(POLL)
        with log.open("a") as lines:
            with _not_for_the_child():
                self._process = child.start(spec, places, log=lines, nice=False)
            # `checkpoint` may interrupt this anywhere, and waits for the same process. Popen.wait
            # holds a lock, so it is called when `checkpoint` has no process to wait for any more.
            os.waitid(os.P_PID, self._process.pid, os.WEXITED | os.WNOWAIT)
            process, self._process = self._process, None
            return process.wait()


@contextmanager
def _not_for_the_child() -> Iterator[None]:
    """Keep the signal for this process from what is started here: Slurm sends it to all processes.

    A process inherits which signals are blocked. The trainer has no handler and would die of it.
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
    """Raise TrainingStopped unless the run was given to this job.

    A `submit` that is killed right after it has called sbatch leaves jobs that nobody knows.
    """
    deadline = time.monotonic() + PATIENCE
    while (owner := jobs.read(work).get(name)) != own:
        if time.monotonic() > deadline:
            who = f"it was given to job {owner}" if owner else "it was given to no job"
            raise TrainingStopped(
                f"job {own} does not make {name}: {who}, says {work / jobs.JOBS}; run the same "
                "command again"
            )
        time.sleep(POLL)


def _told(code: int) -> str:
    if code == child.NO_ROOM:
        return f"; {child.WHEN_THERE_IS_ROOM}"
    return f"; it was killed by signal {-code}" if code < 0 else ""

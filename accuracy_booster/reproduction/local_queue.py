"""Make the missing runs of a plan on this machine, one at a time, at the lowest priority.

The queue may be killed at any instant. Started again, it continues, because its state is on the
disk alone (`work_folder`). It waits while there is a file named `paused` in the work folder.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import IO

from accuracy_booster.errors import CannotWrite, TrainingInterrupted
from accuracy_booster.progress import bars, note
from accuracy_booster.reproduction import run_process, slurm_jobs
from accuracy_booster.reproduction.pausing import POLL, is_paused
from accuracy_booster.reproduction.places import Places
from accuracy_booster.reproduction.record import in_words
from accuracy_booster.reproduction.result_files import read_record, read_records
from accuracy_booster.reproduction.specs import Spec
from accuracy_booster.reproduction.table import TRAINED
from accuracy_booster.reproduction.time_left import hours_left
from accuracy_booster.reproduction.work_folder import alone, epochs_ended, make_folders
from accuracy_booster.reproduction.work_list import Worked, wanted_runs
from accuracy_booster.signals import StopRequest
from accuracy_booster.training.lock import is_locked


def work(specs: Iterable[Spec], places: Places) -> Worked:
    """Make the runs of a plan that are missing, one after the other.

    A run that a Slurm job is making is left out.

    Raises:
        ValueError: if another process works in this folder, or no run can be made.
        CannotWrite: if there is no room on the disk; the same call continues when there is.
        TrainingInterrupted: after a signal; the same call continues.
    """
    places = places.absolute()
    wanted, worked = wanted_runs(list(specs), places)
    make_folders(places)
    with alone(places.work), StopRequest("the same command goes on") as asked:
        in_slurm = slurm_jobs.under_way(places.work)
        for spec in wanted:
            if job := in_slurm.get(spec.name):
                worked.missing[spec.name] = f"job {job} of Slurm makes it"
                note(f"left out {spec.name}: job {job} of Slurm makes it")
        wanted = [spec for spec in wanted if spec.name not in worked.missing]
        with bars() as progress:
            task = progress.add_task("Reproducing", total=len(wanted), note="")
            say = progress.console.print
            for number, spec in enumerate(wanted):
                left = hours_left(wanted[number:], read_records(places.results))
                say(f"run {number + 1} of {len(wanted)}: {spec.name} ({left})")
                maker = _Maker(spec, places, asked, say, partial(progress.update, task))
                if reason := maker.make():
                    worked.failed[spec.name] = reason
                    say(f"{spec.name} failed: {reason}")
                else:
                    record = read_record(places.result(spec.name))
                    worked.done.append(record)
                    say(f"{spec.name}: {in_words(record)}")
                progress.advance(task)
    return worked


@dataclass
class _Maker:
    """Makes one run in a process of its own.

    Attributes:
        asked: the signal that this process has received, if any.
        say: prints a line.
        show: takes a `note` for the progress display.
    """

    spec: Spec
    places: Places
    asked: StopRequest
    say: Callable[[str], None]
    show: Callable[..., None]

    def make(self) -> str:
        """Make the run; returns why it failed, or "".

        Raises:
            CannotWrite: if there is no room on the disk.
            TrainingInterrupted: after a signal.
        """
        log = self.places.log(self.spec.name)
        while True:
            self._wait_while_paused()
            self._wait_for_former_process()
            with _opened(log) as lines:
                process = run_process.start(self.spec, self.places, log=lines)
                try:
                    while process.poll() is None and self.asked.signal is None:
                        if is_paused(self.places):
                            break
                        self.show(note=self._progress())
                        time.sleep(POLL)
                finally:
                    ended = process.poll()
                    run_process.stop(process)
            if self.asked.signal is not None:
                raise _interrupted(self.asked)
            if ended is None:
                continue  # the queue was paused
            if ended == run_process.NO_ROOM:
                raise CannotWrite(f"{run_process.last_line(log)}; {run_process.WHEN_THERE_IS_ROOM}")
            if ended:
                return f"{run_process.last_line(log)} (exit code {ended}; see {log})"
            return ""

    def _progress(self) -> str:
        if self.spec.measures not in TRAINED:
            return self.spec.name
        done = epochs_ended(self.places.run(self.spec))
        return f"{self.spec.name}, epoch {done} of {self.spec.config.epochs}"

    def _wait_while_paused(self) -> None:
        if is_paused(self.places):
            self.say("paused; `accuracy-booster reproduce continue` goes on")
            self.show(note="paused")
        while is_paused(self.places):
            self._sleep()

    def _wait_for_former_process(self) -> None:
        """Wait for the run's process of a queue that was killed: it still saves a checkpoint."""
        run = self.places.run(self.spec)
        while run.is_dir() and is_locked(run):
            self._sleep()

    def _sleep(self) -> None:
        """Sleep for a moment; raise TrainingInterrupted after a signal."""
        if self.asked.signal is not None:
            raise _interrupted(self.asked)
        time.sleep(POLL)


def _opened(log: Path) -> IO[str]:
    """A log file, opened to append to.

    Raises:
        CannotWrite: if its folder was removed, or there is no room.
    """
    try:
        return log.open("a")
    except OSError as e:
        raise CannotWrite(f"cannot write {log}: {e.strerror or e}") from e


def _interrupted(asked: StopRequest) -> TrainingInterrupted:
    number = asked.signal or 15
    return TrainingInterrupted(f"stopped by signal {number}; the same command goes on", number)

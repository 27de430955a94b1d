"""Work through the runs that are missing, one at a time, at the lowest priority.

The state is on the disk alone: a run has ended when its result is in the results' folder, and is
under way when its directory holds a run. So the queue may be killed at any instant; started again
it goes on. A file named `paused` in the work folder makes it wait.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import IO

from accuracy_booster.errors import CannotWrite, TrainingInterrupted
from accuracy_booster.files import check_folder
from accuracy_booster.progress import bars, note
from accuracy_booster.reproduction import child, jobs
from accuracy_booster.reproduction.hours import hours_left
from accuracy_booster.reproduction.pausing import POLL, is_paused
from accuracy_booster.reproduction.places import Places
from accuracy_booster.reproduction.records import (
    Record,
    Records,
    in_words,
    read_record,
    read_records,
)
from accuracy_booster.reproduction.specs import Spec
from accuracy_booster.reproduction.table import TRAINED
from accuracy_booster.reproduction.words import count
from accuracy_booster.signals import StopRequest
from accuracy_booster.training.lock import InUse, is_locked, locked
from accuracy_booster.training.run_directory import Run


@dataclass
class Worked:
    """What a call of `work` came to.

    Attributes:
        done: the results that it made.
        there: how many runs had a result before.
        missing: runs that were left out, and what they need.
        failed: runs that ended with an error.
    """

    done: list[Record] = field(default_factory=list)
    there: int = 0
    missing: dict[str, str] = field(default_factory=dict)
    failed: dict[str, str] = field(default_factory=dict)


def missing_runs(specs: Iterable[Spec], records: Records) -> list[Spec]:
    """The runs of a plan that have no result."""
    return [spec for spec in specs if spec.key not in records.found]


def wanted_runs(specs: Sequence[Spec], places: Places) -> tuple[list[Spec], Worked]:
    """The runs of a plan that are to be made, and what is known of the others.

    Raises:
        ValueError: if nothing can be made.
    """
    for folder in (places.results, places.work):
        check_folder(folder)
    records, worked = read_records(places.results), Worked()
    for path, reason in records.left_out.items():
        note(f"left out {path.name}: {reason}")
    wanted = missing_runs(specs, records)
    worked.there = len(specs) - len(wanted)
    for spec in wanted:
        if needs := places.missing_for(spec):
            worked.missing[spec.name] = needs
    wanted = [spec for spec in wanted if spec.name not in worked.missing]
    for needs in dict.fromkeys(worked.missing.values()):
        number = sum(needs == other for other in worked.missing.values())
        note(f"left out {count(number, 'run')}: {needs}")
    if worked.missing and not wanted and not worked.there:
        raise ValueError(next(iter(worked.missing.values())))
    return wanted, worked


def work(specs: Iterable[Spec], places: Places) -> Worked:
    """Make the runs of a plan that are missing, one after the other.

    A run that a job of Slurm is making is left out.

    Raises:
        ValueError: if another process works here, or nothing can be made.
        CannotWrite: if there is no room; the same call goes on when there is.
        TrainingInterrupted: after a signal.
    """
    places = places.absolute()
    wanted, worked = wanted_runs(list(specs), places)
    make_folders(places)
    with alone(places.work), StopRequest("the same command goes on") as asked:
        given = jobs.under_way(places.work)
        for spec in wanted:
            if job := given.get(spec.name):
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


def make_folders(places: Places) -> None:
    """Make the folders of the results and the runs, and try to write there.

    Raises:
        ValueError: if that fails: before a run, and not after it.
    """
    for folder in (places.results, places.work):
        try:
            folder.mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryFile(dir=folder) as file:
                file.write(b"results are written here")
        except OSError as e:
            raise ValueError(f"cannot write to {folder}: {e.strerror or e}") from e


@contextmanager
def alone(work: Path) -> Iterator[None]:
    """Hold the queue's lock: one run at a time.

    Raises:
        ValueError: if another process holds it.
    """
    try:
        with locked(work):
            yield
    except InUse:
        raise ValueError(
            f"another `reproduce run` works in {work}; one run at a time is made (see "
            "accuracy-booster reproduce status)"
        ) from None


@dataclass
class _Maker:
    """Makes one run in a process of its own.

    Args:
        say: prints a line.
        show: takes a `note` for the progress display.
    """

    spec: Spec
    places: Places
    asked: StopRequest
    say: Callable[[str], None]
    show: Callable[..., None]

    def make(self) -> str:
        """Make the run; why it failed, or "".

        Raises:
            CannotWrite: if there is no room.
            TrainingInterrupted: after a signal.
        """
        log = self.places.log(self.spec.name)
        while True:
            self._wait_while_paused()
            self._wait_for_another()
            with _opened(log) as lines:
                process = child.start(self.spec, self.places, log=lines)
                try:
                    while process.poll() is None and self.asked.signal is None:
                        if is_paused(self.places):
                            break
                        self.show(note=self._how_far())
                        time.sleep(POLL)
                finally:
                    ended = process.poll()
                    child.stop(process)
            if self.asked.signal is not None:
                raise _interrupted(self.asked)
            if ended is None:
                continue  # it was paused
            if ended == child.NO_ROOM:
                raise CannotWrite(f"{child.last_line(log)}; {child.WHEN_THERE_IS_ROOM}")
            if ended:
                return f"{child.last_line(log)} (exit code {ended}; see {log})"
            return ""

    def _how_far(self) -> str:
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

    def _wait_for_another(self) -> None:
        """Wait for the process of a queue that was killed, which still saves."""
        run = self.places.run(self.spec)
        while run.is_dir() and is_locked(run):
            self._sleep()

    def _sleep(self) -> None:
        if self.asked.signal is not None:
            raise _interrupted(self.asked)
        time.sleep(POLL)


def _opened(log: Path) -> IO[str]:
    """A log to write to.

    Raises:
        CannotWrite: if its folder was removed, or there is no room.
    """
    try:
        return log.open("a")
    except OSError as e:
        raise CannotWrite(f"cannot write {log}: {e.strerror or e}") from e


def epochs_ended(run: Path) -> int:
    """How many epochs of a run have ended, as far as its files tell."""
    try:
        return len(Run(run).history())
    except ValueError:  # it is being written, or damaged
        return 0


def _interrupted(asked: StopRequest) -> TrainingInterrupted:
    number = asked.signal or 15
    return TrainingInterrupted(f"stopped by signal {number}; the same command goes on", number)

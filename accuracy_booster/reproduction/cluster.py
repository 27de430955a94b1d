"""The runs of a plan as jobs of Slurm: submitted once, as one array, and then followed.

The state is on the disk and in Slurm: a run has ended when its result is in the results' folder,
and is under way when `jobs.json` names a job that waits or runs. So a `submit` that is stopped
stops no job, and the same call follows the jobs again.
"""

from __future__ import annotations

import contextlib
import importlib
import io
import os
import shutil
import time
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from accuracy_booster.errors import TrainingInterrupted, TrainingStopped, shown, unknown
from accuracy_booster.progress import note
from accuracy_booster.reproduction import jobs
from accuracy_booster.reproduction.job import Job
from accuracy_booster.reproduction.pausing import POLL
from accuracy_booster.reproduction.places import Places
from accuracy_booster.reproduction.queue import Worked, alone, make_folders, wanted_runs
from accuracy_booster.reproduction.records import Record, in_words, read_record
from accuracy_booster.reproduction.specs import Spec
from accuracy_booster.reproduction.words import count
from accuracy_booster.signals import StopRequest

FOLDER = "slurm"  # of submitit's files, in the work folder
DEFAULTS = {"time": 60, "job_name": "accuracy-booster"}
REQUEUES = 1000  # how often a job may come to its time limit; it goes on each time
LONGEST = 30.0  # seconds between two questions to Slurm, at most
SETTLE = 15.0  # seconds until a file of another machine is seen here
# options of submitit that are no texts, or would make several processes train one run
_NOT_OURS = {
    *("setup", "teardown", "srun_args", "additional_parameters", "stderr_to_stdout"),
    *("nodes", "ntasks_per_node", "tasks_per_node", "num_gpus"),
}


def parse_options(text: str) -> dict[str, Any]:
    """Options of a Slurm job: "partition=gpu,gres=gpu:1,time=120" -> a dictionary for `submit`.

    Names are sbatch's as submitit has them, with - or _. Integers become integers, `true` and
    `false` booleans. A part without = belongs to the value before it: "nodelist=n1,n2".

    Raises:
        ValueError: for a name or a value that there is not, or if submitit is not installed.
    """
    options = dict[str, Any]()
    name = ""
    for part in filter(None, (part.strip() for part in text.split(","))):
        new, equals, value = part.partition("=")
        if not equals:
            if not name:
                raise ValueError(
                    f"Slurm option {shown(part)} has no value; write NAME=VALUE, such as "
                    "partition=gpu,gres=gpu:1,time=120"
                )
            options[name] = f"{options[name]},{part}"
            continue
        name = new.strip().replace("-", "_")
        if name in options:
            raise ValueError(f"Slurm option {shown(name)} is given twice; give it once")
        options[name] = value.strip()
    return _checked(options)


def submit(
    specs: Iterable[Spec],
    places: Places,
    *,
    options: Mapping[str, Any],
    at_once: int | None = None,
) -> Worked:
    """Make the runs of a plan that are missing as jobs of Slurm, and follow the jobs to their ends.

    Runs whose jobs wait or run already are followed and not submitted again.

    Args:
        options: of `parse_options`.
        at_once: how many of the jobs run at the same time at most.

    Raises:
        ValueError: if submitit or Slurm is not here, Slurm refuses the jobs, another process works
            here, or nothing can be made.
        TrainingInterrupted: after a signal; the jobs go on.
    """
    if at_once is not None and at_once < 1:
        raise ValueError(f"{at_once} Slurm jobs at the same time; there must be at least 1")
    parameters = {**DEFAULTS, **_checked(options)}
    if at_once is not None:
        parameters["array_parallelism"] = at_once
    _check_slurm()
    places = places.absolute()
    make_folders(places)
    with StopRequest("the jobs go on; the same command follows them again") as asked:
        with alone(places.work):
            # asked before the results are read: a job that ends in between has one then
            given = jobs.under_way(places.work)
            wanted, worked = wanted_runs(list(specs), places)
            new = [spec for spec in wanted if spec.name not in given]
            old = len(wanted) - len(new)
            if new:
                given |= _submit(new, places, parameters)
                jobs.write(places.work, given)
        if old:
            note(f"{count(old, 'run')} given to Slurm before: following")
        if new:
            job = given[new[0].name].split("_")[0]
            note(f"{count(len(new), 'run')} given to Slurm, as job {job}")
        _follow({spec.name: given[spec.name] for spec in wanted}, places, worked, asked)
    return worked


def _submitit() -> Any:
    try:
        return importlib.import_module("submitit")
    except ImportError:
        raise ValueError(
            "the Slurm executor needs submitit, which is not installed; pip install "
            "'accuracy-booster[cluster]'"
        ) from None


def _check_slurm() -> None:
    for program in ("sbatch", "srun", "squeue"):
        if shutil.which(program) is None:
            raise ValueError(
                f"{program} was not found: this machine submits no jobs to Slurm; run this on a "
                "login node of the cluster, or use --executor local"
            )


# --- options


def _checked(options: Mapping[str, Any]) -> dict[str, Any]:
    """Options under the names and with the values that `SlurmExecutor.update_parameters` takes."""
    executor = _submitit().SlurmExecutor
    other_names = executor._equivalence_dict()
    names = {*executor._valid_parameters(), *other_names} - _NOT_OURS
    checked = dict[str, Any]()
    for name, value in options.items():
        if name not in names:
            raise unknown("Slurm option", name, names)
        value = _value(value)
        if name in ("time", "timeout_min", "signal_delay_s", "array_parallelism"):
            unit = {"signal_delay_s": " of seconds", "array_parallelism": ""}
            if type(value) is not int or value < 1:
                raise ValueError(
                    f"Slurm option {name}={shown(value)} must be a whole number"
                    f"{unit.get(name, ' of minutes')} from 1, such as {name}=120"
                )
        if name == "mem_gb":
            value = f"{value}GB"
        checked[other_names.get(name, name)] = value
    return checked


def _value(value: Any) -> Any:
    if not isinstance(value, str):
        return value
    if value.lower() in ("true", "false"):
        return value.lower() == "true"
    return int(value) if value.isascii() and value.isdigit() else value


# --- jobs


def _submit(specs: list[Spec], places: Places, parameters: Mapping[str, Any]) -> dict[str, str]:
    """Submit runs as one array; the job of each run by its name.

    Raises:
        ValueError: if sbatch refuses.
    """
    submitit = _submitit()
    executor = submitit.SlurmExecutor(places.work / FOLDER, max_num_timeout=REQUEUES)
    # a cluster may forbid that jobs are requeued unless they ask for it
    executor.update_parameters(**parameters, additional_parameters={"requeue": True})
    work = [Job(spec.to_json(), places.to_json()) for spec in specs]
    try:
        with contextlib.redirect_stderr(io.StringIO()):  # submitit prints what is raised below
            made = executor.submit_array(work)
    except (submitit.core.utils.FailedJobError, submitit.core.utils.FailedSubmissionError) as e:
        lines = [line.strip() for line in str(e).splitlines() if line.strip()]
        told = [line for line in lines if "error:" in line] or lines[:1]
        raise ValueError(
            f"Slurm refuses {count(len(specs), 'run')}: {' '.join(told)[:500]}"
        ) from None
    return {spec.name: job.job_id for spec, job in zip(specs, made, strict=True)}


def _follow(waiting: Mapping[str, str], places: Places, worked: Worked, asked: StopRequest) -> None:
    """Tell what becomes of jobs until all have ended.

    Raises:
        TrainingInterrupted: after a signal.
    """
    seen, ended = dict[str, str](), dict[str, float]()
    left, pause = dict(waiting), POLL
    while left:
        states = _states(asked)
        os.listdir(places.results)  # a shared disk then looks for files of other machines
        for name, job in list(left.items()):
            state = states.get(job, jobs.FORGOTTEN)
            if _tell(name, job, seen.get(name, "PENDING"), state):
                pause = POLL
            seen[name] = state
            if state not in jobs.ENDED:
                ended.pop(name, None)
                continue
            since = time.monotonic() - ended.setdefault(name, time.monotonic())
            found = _result(name, job, state, places, final=since > SETTLE)
            if found is None:
                continue
            del left[name]
            number = f"run {len(waiting) - len(left)} of {len(waiting)}"
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
            jobs.forget(places.work, waiting)
    except ValueError:  # somebody works here: it is forgotten another time
        return


def _states(asked: StopRequest) -> dict[str, str]:
    """The states of all jobs, as soon as Slurm can be asked."""
    silent = False
    while True:
        try:
            found = jobs.states()
        except ValueError as e:
            if not silent:
                note(f"Slurm does not answer, so it is asked again: {e}")
            silent = True
            _wait(LONGEST, asked)
        else:
            return found


def _wait(seconds: float, asked: StopRequest) -> None:
    """Sleep, unless a signal comes."""
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
    """Tell of a change that is not the end; whether there was one."""
    if state == before:
        return False
    if state not in jobs.ENDED and state != "COMPLETING":
        again = "requeued: it goes on from its checkpoint" if state == "PENDING" else state.lower()
        note(f"{name}: {again} (job {job})")
    return True


def _result(name: str, job: str, state: str, places: Places, *, final: bool) -> Record | str | None:
    """What an ended job has left: its result, why it failed, or None while that may come yet."""
    path = places.result(name)
    try:
        return read_record(path)
    except (OSError, ValueError) as e:
        if state in jobs.ENDED_WELL and not final:
            return None
        if state == "COMPLETED" and path.exists():
            return f"its result does not count: {e}"
    paths = _submitit().core.utils.JobPaths(places.work / FOLDER, job_id=job)
    how = "" if state in ("FAILED", jobs.FORGOTTEN) else f"{state.lower()}, "
    return f"{_reason(paths.stderr, state)} ({how}job {job}; see {paths.stderr})"


def _reason(log: Path, state: str) -> str:
    """The last line of a job's log, without what Slurm adds to an error of ours."""
    try:
        lines = [line.strip() for line in log.read_text(errors="replace").splitlines()]
    except OSError:
        return "it wrote no log; the work folder must be on a disk that all nodes share"
    own = f"{TrainingStopped.__module__}.{TrainingStopped.__name__}: "
    ours = [line.removeprefix(own) for line in lines if line.startswith(own)]
    if state == "FAILED" and ours:
        return ours[-1][:500]
    return next((line for line in reversed(lines) if line), "no message")[:500]

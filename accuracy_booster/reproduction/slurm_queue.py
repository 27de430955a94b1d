"""Make the missing runs of a plan as Slurm jobs: submit them as one array, then follow them.

The state is on the disk and in Slurm. A run has ended when its result is in the results' folder,
and is under way when `jobs.json` names a job that waits or runs. So stopping `submit` stops no job,
and the same call follows the jobs again.
"""

from __future__ import annotations

import contextlib
import io
import shutil
from collections.abc import Iterable, Mapping
from typing import Any

from accuracy_booster.progress import note
from accuracy_booster.reproduction import slurm_jobs
from accuracy_booster.reproduction.phrases import count
from accuracy_booster.reproduction.places import Places
from accuracy_booster.reproduction.slurm_following import FOLDER, follow
from accuracy_booster.reproduction.slurm_job import Job
from accuracy_booster.reproduction.slurm_options import checked_options, submitit
from accuracy_booster.reproduction.specs import Spec
from accuracy_booster.reproduction.work_folder import alone, make_folders
from accuracy_booster.reproduction.work_list import Worked, wanted_runs
from accuracy_booster.signals import StopRequest

DEFAULTS = {"time": 60, "job_name": "accuracy-booster"}
# How often a job may reach its time limit. Each time it is requeued and continues.
REQUEUES = 1000


def submit(
    specs: Iterable[Spec],
    places: Places,
    *,
    options: Mapping[str, Any],
    at_once: int | None = None,
) -> Worked:
    """Make the runs of a plan that are missing as Slurm jobs, and follow the jobs to their ends.

    Runs whose jobs wait or run already are followed, and not submitted again.

    Args:
        options: of the jobs (`slurm_options.parse_options`).
        at_once: how many of the jobs run at the same time at most; by default Slurm decides.

    Raises:
        ValueError: if submitit or Slurm is not installed, Slurm refuses the jobs, another process
            works in this folder, or no run can be made.
        TrainingInterrupted: after a signal; the jobs continue.
    """
    if at_once is not None and at_once < 1:
        raise ValueError(f"{at_once} Slurm jobs at the same time; there must be at least 1")
    parameters = {**DEFAULTS, **checked_options(options)}
    if at_once is not None:
        parameters["array_parallelism"] = at_once
    _check_slurm()
    places = places.absolute()
    make_folders(places)
    with StopRequest("the jobs go on; the same command follows them again") as asked:
        with alone(places.work):
            # Slurm is asked before the results are read: the result of a job that ends in between
            # is then seen.
            given = slurm_jobs.under_way(places.work)
            wanted, worked = wanted_runs(list(specs), places)
            new = [spec for spec in wanted if spec.name not in given]
            old = len(wanted) - len(new)
            if new:
                given |= _submit(new, places, parameters)
                slurm_jobs.write(places.work, given)
        if old:
            note(f"{count(old, 'run')} given to Slurm before: following")
        if new:
            job = given[new[0].name].split("_")[0]
            note(f"{count(len(new), 'run')} given to Slurm, as job {job}")
        follow({spec.name: given[spec.name] for spec in wanted}, places, worked, asked)
    return worked


def _check_slurm() -> None:
    for program in ("sbatch", "srun", "squeue"):
        if shutil.which(program) is None:
            raise ValueError(
                f"{program} was not found: this machine submits no jobs to Slurm; run this on a "
                "login node of the cluster, or use --executor local"
            )


def _submit(specs: list[Spec], places: Places, parameters: Mapping[str, Any]) -> dict[str, str]:
    """Submit runs as one array; returns the job of each run by the run's name.

    Raises:
        ValueError: if sbatch refuses.
    """
    library = submitit()
    executor = library.SlurmExecutor(places.work / FOLDER, max_num_timeout=REQUEUES)
    # a cluster may be configured to requeue only jobs that ask for it
    executor.update_parameters(**parameters, additional_parameters={"requeue": True})
    work = [Job(spec.to_json(), places.to_json()) for spec in specs]
    try:
        with contextlib.redirect_stderr(io.StringIO()):  # submitit also prints what it raises
            made = executor.submit_array(work)
    except (library.core.utils.FailedJobError, library.core.utils.FailedSubmissionError) as e:
        lines = [line.strip() for line in str(e).splitlines() if line.strip()]
        reasons = [line for line in lines if "error:" in line] or lines[:1]
        raise ValueError(
            f"Slurm refuses {count(len(specs), 'run')}: {' '.join(reasons)[:500]}"
        ) from None
    return {spec.name: job.job_id for spec, job in zip(specs, made, strict=True)}

"""Runs as jobs of a real Slurm, which the tests start on this machine."""

from __future__ import annotations

import signal
import subprocess
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from support.processes import until
from support.runs import TINY, curve, epochs_of, places, refuse, specs
from support.slurm import CannotStart, slurm, told
from support.slurm_runs import EPOCHS, LONG, OPTIONS, THREE, follower

from accuracy_booster.reproduction import (
    Record,
    Worked,
    read_records,
    slurm_following,
    slurm_jobs,
    slurm_queue,
    work,
)
from accuracy_booster.reproduction.performing import perform
from accuracy_booster.reproduction.slurm_options import parse_options
from accuracy_booster.reproduction.slurm_queue import submit

pytest.importorskip("submitit")


@pytest.fixture(scope="module", autouse=True)
def _quick() -> Iterator[None]:
    """Slurm is asked every second."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(slurm_following, "LONGEST", 1.0)
        yield


@pytest.fixture(scope="module")
def node(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """A Slurm of one node, for two jobs at a time."""
    try:
        with slurm(tmp_path_factory.mktemp("slurm")):
            yield
    except CannotStart as e:
        pytest.skip(f"no Slurm on this machine: {e}")


def keep_lines(patch: pytest.MonkeyPatch, lines: list[str]) -> None:
    """What `submit` tells goes into a list too."""
    for module in (slurm_queue, slurm_following):
        patch.setattr(module, "note", lambda line: (lines.append(line), print(line)))


def curves(results: Path) -> dict[str, list[tuple[float, float]]]:
    """The learning curve of each result by its hash."""
    records = read_records(results).found.values()
    return {record.spec.hash: curve(record) for record in records}


# --- an array


@pytest.fixture(scope="module")
def made_by_slurm(node: None, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Worked, str]:
    """Three runs, one of which fails, through one array: the folder, what came of it, the lines."""
    folder, lines = tmp_path_factory.mktemp("made"), list[str]()
    with pytest.MonkeyPatch.context() as patch:
        keep_lines(patch, lines)
        worked = submit(specs(THREE), places(folder), options=parse_options(OPTIONS), at_once=2)
    return folder, worked, "\n".join(lines)


def test_runs_go_through_one_array_and_equal_those_of_the_local_queue(made_by_slurm, tmp_path):
    folder, worked, lines = made_by_slurm
    assert sorted(record.spec.block for record in worked.done) == ["ab", "none"]
    assert (worked.there, worked.missing) == (0, {})
    work(specs(TINY), places(tmp_path))
    here = curves(folder / "results")
    assert len(here) == 2
    assert here == curves(tmp_path / "results")
    assert "3 runs given to Slurm, as job 1" in lines
    for index, spec in enumerate(specs(THREE)):
        assert f"{spec.name}: running (job 1_{index})" in lines
    text = (folder / "work" / "slurm" / "1_submission.sh").read_text()
    for line in ("--array=0-2%2", "--time=120", "--cpus-per-task=1", "--requeue"):
        assert f"#SBATCH {line}" in text


def test_a_job_that_fails_is_named_with_the_last_line_of_its_log(made_by_slurm):
    folder, worked, lines = made_by_slurm
    ((name, reason),) = worked.failed.items()
    assert name == specs(THREE)[2].name
    assert "groups=7" in reason
    assert "job 1_2" in reason
    assert "\n" not in reason
    assert f"{name} failed: {reason}" in lines
    assert not (folder / "results" / f"{name}.json").exists()


def test_results_that_are_there_are_not_made_again(made_by_slurm, monkeypatch):
    folder, _, _ = made_by_slurm
    monkeypatch.setattr(slurm_queue, "_submit", refuse)
    assert slurm_jobs.read(folder / "work") == {}
    worked = submit(specs(TINY), places(folder), options={})
    assert (worked.there, worked.done, worked.failed) == (2, [], {})


# --- interruptions


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory: pytest.TempPathFactory) -> Record:
    """The result of the long run, made in this process."""
    folder = tmp_path_factory.mktemp("uninterrupted")
    perform(specs(LONG)[0], places(folder))
    (record,) = read_records(folder / "results").found.values()
    return record


INTERRUPTIONS = (
    ("scancel --signal=USR2 {}",),  # submitit asks for this signal before a time limit
    ("scancel --signal=TERM {}", "scancel --signal=USR2 {}"),  # preemption sends both
    ("scontrol requeue {}",),  # a node is taken away
)


def test_interrupted_jobs_continue_and_nothing_is_made_twice(
    node, uninterrupted, tmp_path, monkeypatch
):
    """The process that follows a run gets Ctrl-C, and then its job is interrupted in three ways."""
    here, (spec,) = places(tmp_path), specs(LONG)
    log, told_first = here.work / f"{spec.name}.log", tmp_path / "first"

    def epochs() -> int:
        return epochs_of(tmp_path, spec)

    process = follower(tmp_path, told_first)
    until(lambda: epochs() >= 1, 90)
    number = slurm_jobs.read(here.work)[spec.name]
    process.send_signal(signal.SIGINT)
    assert process.wait(30) != 0
    assert "the jobs go on, and the same command follows them again" in told_first.read_text()
    assert slurm_jobs.under_way(here.work) == {spec.name: number}, "the job did not outlive Ctrl-C"

    with monkeypatch.context() as patch:  # the local queue leaves the run to its job
        patch.setattr("accuracy_booster.reproduction.run_process.start", refuse)
        assert work([spec], here).missing == {spec.name: f"job {number} of Slurm makes it"}

    lines, came = list[str](), list[Worked]()
    keep_lines(monkeypatch, lines)
    again = threading.Thread(
        target=lambda: came.append(submit([spec], here, options=parse_options(OPTIONS))),
        daemon=True,
    )
    again.start()
    until(lambda: bool(lines), 90)
    for times, commands in enumerate(INTERRUPTIONS, start=1):
        before = epochs()
        until(lambda before=before: epochs() > before, 90)
        assert epochs() < EPOCHS, "it ended too soon to test anything"
        for place, command in enumerate(commands):
            time.sleep(place)  # the run receives the first signal before the second
            subprocess.run(command.format(number).split(), check=True)
        until(lambda times=times: log.read_text().count("going on from") == times, 90)
    assert slurm_jobs.read(here.work) == {spec.name: number}
    again.join(90)
    assert lines[0] == "1 run given to Slurm before: following"
    assert not any("as job" in line for line in lines)
    requeued = f"{spec.name}: requeued: it goes on from its checkpoint (job {number})"
    assert lines.count(requeued) == len(INTERRUPTIONS)
    shown = told("squeue", "-h", "--states=all", "--array", "-o", "%i %j").splitlines()
    known = [line for line in shown if line.startswith(number)]
    assert known == [f"{number} accuracy-booster"]
    (worked,) = came
    (record,) = worked.done
    assert record.values == uninterrupted.values
    assert curve(record) == curve(uninterrupted)
    assert slurm_jobs.read(here.work) == {}


# --- errors


def test_what_slurm_refuses_is_told_in_one_line(node, tmp_path, capsys):
    with pytest.raises(ValueError) as error:
        submit(specs(LONG), places(tmp_path), options={"partition": "gpu"})
    assert "Slurm refuses 1 run: " in str(error.value)
    assert "invalid partition specified: gpu" in str(error.value)
    assert "\n" not in str(error.value)
    assert slurm_jobs.read(tmp_path / "work") == {}
    assert capsys.readouterr().err == ""


def test_without_slurm(tmp_path, monkeypatch):
    (tmp_path / "bin").mkdir()
    monkeypatch.setenv("PATH", str(tmp_path / "bin"))
    with pytest.raises(ValueError, match=r"sbatch was not found.*--executor local"):
        submit(specs(LONG), places(tmp_path), options={})
    assert not (tmp_path / "work").exists()
    # the local queue must not make what a job may be making
    (spec,) = specs(LONG)
    slurm_jobs.write(tmp_path / "work", {spec.name: "5_0"})
    with pytest.raises(ValueError, match=r"Slurm makes runs of this folder.*squeue was not"):
        work([spec], places(tmp_path))


def test_a_number_of_jobs_is_at_least_1(tmp_path):
    with pytest.raises(ValueError, match=r"0 Slurm jobs at the same time; .* at least 1"):
        submit(specs(LONG), places(tmp_path), options={}, at_once=0)

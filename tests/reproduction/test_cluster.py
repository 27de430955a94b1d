"""Runs as jobs of a real Slurm, which the tests start on this machine."""

from __future__ import annotations

import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from support.slurm import CannotStart, slurm, told

from accuracy_booster.errors import TrainingStopped
from accuracy_booster.reproduction import (
    Places,
    Row,
    Table,
    Worked,
    plan,
    read_records,
    slurm_job,
    slurm_jobs,
    slurm_queue,
    work,
)
from accuracy_booster.reproduction.performing import perform
from accuracy_booster.reproduction.record import Record
from accuracy_booster.reproduction.slurm_options import parse_options
from accuracy_booster.reproduction.slurm_queue import submit
from accuracy_booster.reproduction.specs import Spec

pytest.importorskip("submitit")
ROWS = tuple(Row(block, "resnet8", block) for block in ("none", "ab"))
WRONG = Row("groups that do not fit", "resnet8", "gap | dense(groups=7) | bn | sigmoid")
TINY = Table("tiny", "a tiny network on the digits", "cifar10", (*ROWS, WRONG), seeds=1)
EPOCHS = 16
LONG = replace(TINY, rows=ROWS[1:], settings={"epochs": EPOCHS, "batch_size": 128})
OPTIONS = "time=120,cpus-per-task=1"


def places(folder: Path) -> Places:
    return Places(results=folder / "results", work=folder / "work")


def specs(table: Table) -> list[Spec]:
    return list(plan([table], "smoke", 1))


@pytest.fixture(scope="module", autouse=True)
def _quick() -> Iterator[None]:
    """Jobs with one thread, as this process has: sums round differently with more."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("OMP_NUM_THREADS", "1")
        patch.setattr(slurm_queue, "LONGEST", 1.0)
        yield


@pytest.fixture(scope="module")
def node(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """A Slurm of one node, for two jobs at a time."""
    try:
        with slurm(tmp_path_factory.mktemp("slurm")):
            yield
    except CannotStart as e:
        pytest.skip(f"no Slurm on this machine: {e}")


def curves(results: Path) -> dict[str, list[tuple[float, float]]]:
    """The learning curve of each result by its hash."""
    records = read_records(results).found.values()
    return {record.spec.hash: curve(record) for record in records}


def curve(record: Record) -> list[tuple[float, float]]:
    return [(row["train_loss"], row["test_top1"]) for row in record.epochs]


def wait_for(true: Callable[[], bool], patience: float = 90.0) -> None:
    deadline = time.monotonic() + patience
    while not true():
        assert time.monotonic() < deadline, "it did not come to that"
        time.sleep(0.1)


# --- an array


@pytest.fixture(scope="module")
def made(node: None, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Worked, str]:
    """Three runs, one of which fails, through one array: the folder, what came of it, the lines."""
    folder, lines = tmp_path_factory.mktemp("made"), list[str]()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(slurm_queue, "note", lambda line: (lines.append(line), print(line)))
        worked = submit(specs(TINY), places(folder), options=parse_options(OPTIONS), at_once=2)
    return folder, worked, "\n".join(lines)


def test_runs_go_through_one_array_and_equal_those_of_the_local_queue(made, tmp_path):
    folder, worked, lines = made
    assert sorted(record.spec.block for record in worked.done) == ["ab", "none"]
    assert (worked.there, worked.missing) == (0, {})
    work(specs(replace(TINY, rows=ROWS)), places(tmp_path))
    here = curves(folder / "results")
    assert len(here) == 2
    assert here == curves(tmp_path / "results")
    assert "3 runs given to Slurm, as job 1" in lines
    for index, spec in enumerate(specs(TINY)):
        assert f"{spec.name}: running (job 1_{index})" in lines
    text = (folder / "work" / "slurm" / "1_submission.sh").read_text()
    for line in ("--array=0-2%2", "--time=120", "--cpus-per-task=1", "--requeue"):
        assert f"#SBATCH {line}" in text


def test_a_job_that_fails_is_named_with_the_last_line_of_its_log(made):
    folder, worked, lines = made
    ((name, reason),) = worked.failed.items()
    assert name == specs(TINY)[2].name
    assert "groups=7" in reason
    assert "job 1_2" in reason
    assert "\n" not in reason
    assert f"{name} failed: {reason}" in lines
    assert not (folder / "results" / f"{name}.json").exists()


def test_results_that_are_there_are_not_made_again(made, monkeypatch):
    folder, _, _ = made
    monkeypatch.setattr(slurm_queue, "_submit", refuse)
    assert slurm_jobs.read(folder / "work") == {}
    worked = submit(specs(replace(TINY, rows=ROWS)), places(folder), options={})
    assert (worked.there, worked.done, worked.failed) == (2, [], {})


def refuse(*_: object, **__: object) -> None:
    pytest.fail("a run was started a second time")


# --- interruptions

FOLLOWER = """
import sys
from pathlib import Path
sys.path[:0] = {tests!r}
import test_cluster as t
t.cluster.LONGEST = 1.0
t.submit(t.specs(t.LONG), t.places(Path(sys.argv[1])), options=t.parse_options(t.OPTIONS))
"""


def follower(folder: Path, lines: Path) -> subprocess.Popen[bytes]:
    """A process that submits the long run and follows it; what it says goes into a file."""
    script = FOLLOWER.format(tests=[str(folder) for folder in Path(__file__).parents[:2]])
    with lines.open("wb") as file:
        return subprocess.Popen([sys.executable, "-c", script, str(folder)], stderr=file)


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory: pytest.TempPathFactory) -> Record:
    folder = tmp_path_factory.mktemp("uninterrupted")
    perform(specs(LONG)[0], places(folder))
    (record,) = read_records(folder / "results").found.values()
    return record


INTERRUPTIONS = (
    ("scancel --signal=USR2 {}",),  # what submitit has asked for, before a time limit
    ("scancel --signal=TERM {}", "scancel --signal=USR2 {}"),  # preemption: every process gets both
    ("scontrol requeue {}",),  # a node that is taken away
)


def test_interrupted_jobs_go_on_and_nothing_is_made_twice(
    node, uninterrupted, tmp_path, monkeypatch
):
    """One run meets a Ctrl-C of who follows it, and then what Slurm does to jobs."""
    here, (spec,) = places(tmp_path), specs(LONG)
    log, told_first = here.work / f"{spec.name}.log", tmp_path / "first"

    def epochs() -> int:
        rows = here.run(spec) / "metrics.csv"
        return len(rows.read_text().splitlines()) - 1 if rows.exists() else 0

    process = follower(tmp_path, told_first)
    wait_for(lambda: epochs() >= 1)
    number = slurm_jobs.read(here.work)[spec.name]
    process.send_signal(signal.SIGINT)
    assert process.wait(30) != 0
    assert "the jobs go on, and the same command follows them again" in told_first.read_text()
    assert slurm_jobs.under_way(here.work) == {spec.name: number}, "the job did not outlive Ctrl-C"

    with monkeypatch.context() as patch:  # this machine's queue leaves it alone
        patch.setattr("accuracy_booster.reproduction.run_process.start", refuse)
        assert work([spec], here).missing == {spec.name: f"job {number} of Slurm makes it"}

    lines, came = list[str](), list[Worked]()
    monkeypatch.setattr(slurm_queue, "note", lambda line: (lines.append(line), print(line)))
    again = threading.Thread(
        target=lambda: came.append(submit([spec], here, options=parse_options(OPTIONS))),
        daemon=True,
    )
    again.start()
    wait_for(lambda: bool(lines))
    for times, commands in enumerate(INTERRUPTIONS, start=1):
        before = epochs()
        wait_for(lambda before=before: epochs() > before)
        assert epochs() < EPOCHS, "it ended too soon to test anything"
        for place, command in enumerate(commands):
            time.sleep(place)  # the run hears of the first one before the second comes
            subprocess.run(command.format(number).split(), check=True)
        wait_for(lambda times=times: log.read_text().count("going on from") == times)
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


def test_the_signal_of_a_job_does_not_reach_its_run():
    """Slurm sends it to all processes; the trainer, which does not know it, would die."""
    words = [sys.executable, "-c", "import sys; print(1, flush=True); sys.stdin.read()"]
    with slurm_job._not_for_the_child():
        process = subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    assert signal.SIGUSR2 not in signal.pthread_sigmask(signal.SIG_BLOCK, [])
    process.stdout.readline()
    process.send_signal(signal.SIGUSR2)
    process.communicate(timeout=30)
    assert process.returncode == 0


def test_a_job_that_was_not_given_its_run_does_not_make_it(tmp_path, monkeypatch):
    monkeypatch.setattr(slurm_job, "PATIENCE", 0.0)
    monkeypatch.setattr(slurm_job, "_own_id", lambda: "7_0")
    monkeypatch.setattr("accuracy_booster.reproduction.run_process.start", refuse)
    here, (spec,) = places(tmp_path), specs(LONG)
    slurm_jobs.write(here.work, {spec.name: "8_0"})
    with pytest.raises(TrainingStopped, match=r"job 7_0 does not make .*given to job 8_0"):
        slurm_job.Job(spec.to_json(), here.to_json())()


# --- errors


def test_options_are_sbatchs():
    assert parse_options("") == {}
    assert parse_options("partition=gpu, gres=gpu:1,time=120,mem_gb=16,exclusive=true") == {
        **{"partition": "gpu", "gres": "gpu:1", "time": 120, "mem": "16GB", "exclusive": True}
    }
    assert parse_options("nodelist=n1,n2,mail-type=END,FAIL") == {
        **{"nodelist": "n1,n2", "mail_type": "END,FAIL"}
    }


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("partitoin=gpu", "unknown Slurm option 'partitoin'; nearest: partition"),
        ("nodes=2", "unknown Slurm option 'nodes'"),
        ("gpu", "Slurm option 'gpu' has no value; write NAME=VALUE, such as partition=gpu"),
        ("time=1:00:00", "Slurm option time='1:00:00' must be a whole number of minutes"),
        ("time=0", "time=0 must be a whole number of minutes from 1, such as time=120"),
        ("signal-delay-s=x", "signal_delay_s='x' must be a whole number of seconds"),
        ("qos=a,qos=b", "Slurm option 'qos' is given twice; give it once"),
    ],
)
def test_wrong_options_are_told_in_one_line(text, says):
    with pytest.raises(ValueError) as error:
        parse_options(text)
    assert says in str(error.value)
    assert "\n" not in str(error.value)


def test_what_slurm_refuses_is_told_in_one_line(node, tmp_path, capsys):
    with pytest.raises(ValueError) as error:
        submit(specs(LONG), places(tmp_path), options={"partition": "gpu"})
    assert "Slurm refuses 1 run: " in str(error.value)
    assert "invalid partition specified: gpu" in str(error.value)
    assert "\n" not in str(error.value)
    assert slurm_jobs.read(tmp_path / "work") == {}
    assert capsys.readouterr().err == ""


def test_without_submitit(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "submitit", None)
    for call in (
        lambda: parse_options("time=1"),
        lambda: submit(specs(LONG), places(tmp_path), options={}),
    ):
        with pytest.raises(ValueError, match=r"pip install 'accuracy-booster\[cluster\]'"):
            call()


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

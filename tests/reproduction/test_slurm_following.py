"""Following jobs to their ends, with a stand-in for Slurm. A real one is in `test_slurm_queue`."""

from __future__ import annotations

import pytest
from support.runs import copied, specs
from support.squeue import fake_squeue

from accuracy_booster.errors import TrainingInterrupted
from accuracy_booster.reproduction import Worked, slurm_following, slurm_jobs
from accuracy_booster.signals import StopRequest

pytest.importorskip("submitit")
OURS = "accuracy_booster.errors.TrainingStopped: "


@pytest.mark.parametrize(
    ("state", "log", "reason"),
    [
        ("FAILED", f"a\n{OURS}the loss\nsubmitit: failed\n", "the loss (job 7_1; see "),
        ("FAILED", "Traceback\nKeyError: 3\n\n", "KeyError: 3 (job 7_1; see "),
        (
            "CANCELLED",
            f"{OURS}the loss\nslurmstepd: cancelled\n",
            "slurmstepd: cancelled (cancelled",
        ),
        ("NODE_FAIL", None, "it wrote no log; the work folder must be on a disk that all nodes"),
    ],
)
def test_ended_jobs_give_results_and_reasons(made, tmp_path, monkeypatch, state, log, reason):
    here = copied(made, tmp_path)
    first, second = (spec.name for spec in specs())
    here.result(second).unlink()
    folder = here.work / slurm_following.FOLDER
    folder.mkdir(parents=True)
    if log is not None:
        (folder / "7_1_0_log.err").write_text(log)
    fake_squeue(tmp_path / "bin", {"7_0": "COMPLETED", "7_1": state}, monkeypatch)
    given, worked = {first: "7_0", second: "7_1"}, Worked()
    slurm_jobs.write(here.work, given)
    with StopRequest("") as asked:
        slurm_following.follow(given, here, worked, asked)
    assert [record.spec.name for record in worked.done] == [first]
    assert list(worked.failed) == [second]
    assert worked.failed[second].startswith(reason)
    assert slurm_jobs.read(here.work) == {}


def test_a_result_that_is_not_visible_yet_is_waited_for(made, tmp_path, monkeypatch):
    monkeypatch.setattr(slurm_following, "SETTLE", 0.0)
    here, name = copied(made, tmp_path), specs()[0].name
    here.result(name).unlink()
    (here.work / slurm_following.FOLDER).mkdir(parents=True)
    fake_squeue(tmp_path / "bin", {"7_0": "COMPLETED"}, monkeypatch)
    worked, lines = Worked(), list[str]()
    monkeypatch.setattr(slurm_following, "note", lines.append)
    with StopRequest("") as asked:
        slurm_following.follow({name: "7_0"}, here, worked, asked)
    assert "it wrote no log" in worked.failed[name]
    assert lines == [f"run 1 of 1: {name} failed: {worked.failed[name]}"]


def test_a_signal_ends_the_following_and_not_the_job(made, tmp_path, monkeypatch):
    here, name = copied(made, tmp_path), specs()[0].name
    here.work.mkdir()
    fake_squeue(tmp_path / "bin", {"7_0": "RUNNING"}, monkeypatch)
    slurm_jobs.write(here.work, {name: "7_0"})
    asked = StopRequest("")
    asked.signal = 15
    with pytest.raises(TrainingInterrupted, match="the jobs go on"):
        slurm_following.follow({name: "7_0"}, here, Worked(), asked)
    assert slurm_jobs.under_way(here.work) == {name: "7_0"}

"""What a Slurm job does on its node."""

from __future__ import annotations

import signal
import subprocess
import sys

import pytest
from support.runs import places, refuse, specs
from support.slurm_runs import LONG

from accuracy_booster.errors import TrainingStopped
from accuracy_booster.reproduction import slurm_job, slurm_jobs

pytest.importorskip("submitit")


def test_the_signal_of_a_job_does_not_reach_its_run():
    """Slurm sends it to all processes. The trainer has no handler for it and would die."""
    words = [sys.executable, "-c", "import sys; print(1, flush=True); sys.stdin.read()"]
    with slurm_job._signal_blocked():
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

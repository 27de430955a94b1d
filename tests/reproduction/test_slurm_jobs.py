"""Which runs were given to Slurm, and what `squeue` says of their jobs."""

from __future__ import annotations

import pytest
from support.squeue import fake_squeue

from accuracy_booster.reproduction import slurm_jobs


def test_jobs_are_under_way_while_slurm_says_so(tmp_path, monkeypatch):
    assert slurm_jobs.under_way(tmp_path) == {}  # without asking Slurm
    slurm_jobs.write(tmp_path, {"a": "7_0", "b": "7_1", "c": "7_2", "d": "6_0"})
    states = {"7_0": "RUNNING", "7_1": "PENDING", "7_2": "TIMEOUT"}
    fake_squeue(tmp_path / "bin", states, monkeypatch)
    assert slurm_jobs.states() == states
    assert slurm_jobs.under_way(tmp_path) == {"a": "7_0", "b": "7_1"}
    slurm_jobs.forget(tmp_path, ["a", "x"])
    assert slurm_jobs.read(tmp_path) == {"b": "7_1", "c": "7_2", "d": "6_0"}


def test_a_squeue_that_fails_is_told(tmp_path, monkeypatch):
    fake_squeue(tmp_path, {}, monkeypatch)
    (tmp_path / "squeue").write_text("#!/bin/sh\necho no controller >&2\nexit 1\n")
    with pytest.raises(ValueError, match="squeue failed: no controller"):
        slurm_jobs.states()
    slurm_jobs.write(tmp_path, {"a": "7_0"})
    with pytest.raises(ValueError, match=r"Slurm makes runs of this folder.*no controller"):
        slurm_jobs.under_way(tmp_path)


def test_a_damaged_list_of_jobs_is_refused(tmp_path):
    slurm_jobs.write(tmp_path, {"a": "7_0"})
    file = tmp_path / slurm_jobs.JOBS
    file.write_text(file.read_text().replace("7_0", "8_0"))
    with pytest.raises(ValueError, match="damaged"):
        slurm_jobs.read(tmp_path)

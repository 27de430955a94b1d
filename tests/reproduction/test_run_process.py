"""The process of a run: its priority, its imports, and its exit code for a full disk."""

from __future__ import annotations

import os
import sys
from dataclasses import replace

import pytest
from support.processes import until
from support.runs import LONG, InThisProcess, places, specs

from accuracy_booster.errors import CannotWrite, TrainingStopped
from accuracy_booster.reproduction import performing, run_process


def test_a_run_has_the_lowest_priority(tmp_path):
    spec = specs(LONG)[0]
    process = run_process.start(spec, places(tmp_path))
    try:
        until(lambda: os.getpriority(os.PRIO_PROCESS, process.pid) == run_process.LOWEST)
    finally:
        run_process.stop(process)
    assert process.returncode


def test_a_run_imports_nothing_from_the_working_directory(made, tmp_path, monkeypatch):
    (tmp_path / "torch.py").write_text("raise SystemExit('the wrong torch')")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", ["", *sys.path])
    spec = specs()[0]
    process = run_process.start(spec, replace(places(made), results=tmp_path / "results"))
    assert process.wait(60) == 0
    assert (tmp_path / "results" / f"{spec.name}.json").exists()


def full(*_):
    raise CannotWrite("cannot write x: No space left on device")


def full_while_training(*_):
    try:
        full()
    except CannotWrite as e:
        raise TrainingStopped("the last checkpoint is intact") from e


@pytest.mark.parametrize("fails", [full, full_while_training])
def test_a_full_disk_has_an_exit_code_of_its_own(tmp_path, monkeypatch, fails):
    monkeypatch.setattr(performing, "perform", fails)
    with (tmp_path / "log").open("w") as log:
        process = InThisProcess(specs()[0], places(tmp_path), log=log)
    assert process.poll() == run_process.NO_ROOM
    assert (tmp_path / "log").read_text() == "cannot write x: No space left on device\n"

"""Runs that several files of tests look at, each made once."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from support import detector_runs, gate_runs
from support.runs import LONG, TINY, InThisProcess, make_here, places, refuse

from accuracy_booster.reproduction import Counts, Places, Record, counts, plan, run_process
from accuracy_booster.reproduction.budgets import STANDARD
from accuracy_booster.reproduction.performing import perform


@pytest.fixture(scope="session", autouse=True)
def _one_thread_in_processes() -> Iterator[None]:
    """Processes that tests start have one thread, as this one: so sums are rounded the same."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("OMP_NUM_THREADS", "1")
        yield


@pytest.fixture
def in_this_process(monkeypatch: pytest.MonkeyPatch) -> None:
    """Runs are made in this process, which takes a tenth of the time."""
    monkeypatch.setattr(run_process, "start", InThisProcess)


@pytest.fixture
def no_process(monkeypatch: pytest.MonkeyPatch) -> None:
    """A test fails if it starts a run."""
    monkeypatch.setattr(run_process, "start", refuse)


@pytest.fixture(scope="session")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of the runs and results of `TINY`."""
    folder = tmp_path_factory.mktemp("made")
    assert len(make_here(TINY, folder)) == 2
    return folder


@pytest.fixture(scope="session")
def uninterrupted(tmp_path_factory: pytest.TempPathFactory) -> Record:
    """The result of `LONG`."""
    (record,) = make_here(LONG, tmp_path_factory.mktemp("uninterrupted"))
    assert len(record.epochs) == 12
    return record


@pytest.fixture(scope="session")
def made_gates(tmp_path_factory: pytest.TempPathFactory) -> Places:
    """The runs of the tables of `support.gate_runs`."""
    made = places(tmp_path_factory.mktemp("made_gates"))
    for spec in plan([gate_runs.MERGING, gate_runs.ZEROING], "smoke", 1):
        perform(spec, made)
    return made


@pytest.fixture(scope="session")
def made_detectors(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Places]:
    """The runs of the table of `support.detector_runs`: two classifiers, two detectors."""
    folder = tmp_path_factory.mktemp("made_detectors")
    detector_runs.write_data(folder / "data")
    made = Places(folder / "results", folder / "work", folder / "data")
    with pytest.MonkeyPatch.context() as patch:
        for name, budgets in detector_runs.SCHEDULES.items():
            patch.setitem(STANDARD, name, budgets)
        for spec in plan([detector_runs.TINY_DETECTORS], "short", 1):
            perform(spec, made)
        yield made


@pytest.fixture(scope="session")
def everything() -> Counts:
    """All counts of the paper's tables."""
    return counts()

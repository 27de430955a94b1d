"""One process trains in a directory, and stops if the directory is no longer its own."""

from __future__ import annotations

import os
import shutil
import signal

import pytest
from support.interruptions import (
    endless,
)
from support.processes import cannot_fork, in_child, until, wait
from support.trainings import (
    assert_equal_ends,
    contents,
    digit_words,
    finish,
    hashes,
    options,
    run_or_resume,
    train_digits,
)

from accuracy_booster.cli import main
from accuracy_booster.errors import TrainingStopped
from accuracy_booster.training import (
    list_runs,
    trainer,
)
from accuracy_booster.training.lock import LOCK, is_locked, locked
from accuracy_booster.training.run_directory import Run

pytestmark = [pytest.mark.forks, cannot_fork]


def test_a_second_process_is_refused_and_the_lock_dies_with_the_first(data, reference, tmp_path):
    run, log = tmp_path / "run", tmp_path / "log"
    ready = tmp_path / "ready"

    def first():
        endless(5)(ready)
        run_or_resume(data, run)

    pid = in_child(first, tmp_path / "first.log")
    until(ready.exists)
    assert is_locked(run)
    before = hashes(run)
    assert wait(in_child(lambda: main(["train", "--resume", str(run)]), log)) == 2
    assert (
        log.read_text()
        .strip()
        .endswith(f"error: {run} is in use: another process is training there")
    )
    assert "Traceback" not in log.read_text()
    words = [f"--{k}={v}" for k, v in options(data, run, overwrite=True).items()]
    assert wait(in_child(lambda: main(["train", *words]), log)) == 2  # overwriting neither
    assert hashes(run) == before
    assert [r.state for r in list_runs(tmp_path)] == ["training"]
    os.kill(pid, signal.SIGKILL)
    wait(pid)
    assert not is_locked(run)
    finish(data, run, tmp_path)
    assert_equal_ends(reference(), run)


def test_a_lock_within_one_process(tmp_path):
    with locked(tmp_path):
        assert is_locked(tmp_path)
        with pytest.raises(ValueError, match="is in use"), locked(tmp_path):
            pass
        assert is_locked(tmp_path)
    assert not is_locked(tmp_path)
    with locked(tmp_path):
        pass


def test_a_refusal_within_the_process_does_not_open_the_lock_to_others(tmp_path):
    run = tmp_path / "run"
    run.mkdir()
    with locked(run):
        with pytest.raises(ValueError), locked(run):
            pass

        def other():
            return 7 if is_locked(run) else 0

        assert wait(in_child(other, tmp_path / "log")) == 7


@pytest.mark.parametrize("anew", [False, True])
def test_a_run_that_is_removed_as_it_trains_stops(anew, tmp_path, monkeypatch, capsys):
    """Nothing is written to a directory that another training has made there."""
    run, real, made = tmp_path / "run", trainer.Trainer.train_step, {}

    def train_step(self, *given):
        agreed = real(self, *given)
        if not made:
            shutil.rmtree(run)
            made["now"] = {}
            if anew:
                run.mkdir()
                (run / LOCK).touch()
                (run / "config.yaml").write_text("of another training")
                made["now"] = contents(run)
        return agreed

    monkeypatch.setattr(trainer.Trainer, "train_step", train_step)
    assert main(digit_words("train", run)) == 1
    told = capsys.readouterr().err
    assert "was removed or replaced while this training ran" in " ".join(told.split())
    assert run.exists() == anew
    if anew:
        assert contents(run) == made["now"]


def test_a_run_that_is_removed_before_its_end_is_written_stops(tmp_path, monkeypatch):
    real = trainer.Trainer.measure

    def measure(self, *given):
        shutil.rmtree(tmp_path / "run", ignore_errors=True)
        return real(self, *given)

    monkeypatch.setattr(trainer.Trainer, "measure", measure)
    with pytest.raises(TrainingStopped, match="removed or replaced"):
        train_digits(tmp_path / "run")


def test_the_lock_is_that_of_the_directory(tmp_path):
    with locked(tmp_path) as lock:
        lock.check()
        (tmp_path / LOCK).unlink()
        with pytest.raises(TrainingStopped, match="removed or replaced"):
            lock.check()
        (tmp_path / LOCK).touch()
        with pytest.raises(TrainingStopped, match="removed or replaced"):
            Run(tmp_path, lock).write("x", b"")
    assert not (tmp_path / "x").exists()

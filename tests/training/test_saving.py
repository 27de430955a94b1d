"""Signals and a full disk: a training stops with a checkpoint and says how to resume it."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time

import pytest
from support.interruptions import (
    announce,
    endless,
    full_disk,
    in_evaluation,
)
from support.processes import cannot_fork, in_child, until, wait
from support.trainings import (
    assert_equal_ends,
    finish,
    options,
    signalled,
)

from accuracy_booster import signals
from accuracy_booster.cli import main
from accuracy_booster.training import (
    checkpoint,
)
from accuracy_booster.training.lock import is_locked

pytestmark = [pytest.mark.forks, cannot_fork]


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_saves_says_how_to_go_on_and_exits(data, reference, tmp_path, number):
    """The command itself, in a process of its own."""
    run = tmp_path / "a run"  # with a space, which the message must quote
    words = [f"--{k}={v}" for k, v in options(data, run, workers=1, epochs=60).items()]
    process = subprocess.Popen(
        [sys.executable, "-m", "accuracy_booster", "train", *words],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    until(lambda: (run / "checkpoints/manifest.json").exists() or process.poll() is not None)
    start = time.monotonic()
    process.send_signal(number)
    out, err = process.communicate(timeout=60)
    assert time.monotonic() - start < 10
    assert process.returncode == 128 + number
    assert out == ""
    assert "Traceback" not in err
    last = err.strip().splitlines()[-1]
    where = re.fullmatch(
        rf"accuracy-booster: stopped by signal {int(number)} after step (\d+) of epoch (\d+), "
        rf"which is saved; go on with: accuracy-booster train --resume '{re.escape(str(run))}'",
        last,
    )
    assert where, err
    saved, problems = checkpoint.load(run)
    assert not problems
    assert (saved.values["step"], saved.values["epoch"] + 1) == tuple(map(int, where.groups()))
    assert not is_locked(run)


@pytest.mark.parametrize("step", [1, 4, 6])
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_stopped_run_goes_on_to_the_same_end(data, reference, tmp_path, step, number):
    """After the first step, the last of an epoch, and in between; no other checkpoint is near."""
    run = tmp_path / "run"
    code, said, _ = signalled(
        *(data, run, tmp_path, announce(step), [number]), checkpoint_minutes=100
    )
    assert code == 128 + number, said
    assert "go on with: accuracy-booster train --resume" in said
    finish(data, run, tmp_path)
    assert_equal_ends(reference(), run)


def test_a_signal_in_the_evaluation(data, reference, tmp_path):
    run = tmp_path / "run"

    def plant(ready):
        def pause():
            ready.touch()
            time.sleep(0.4)  # so that the signal comes within it

        in_evaluation(2, pause)

    code, said, _ = signalled(data, run, tmp_path, plant, [signal.SIGTERM])
    assert code == 143, said
    assert not (run / "metrics.csv").exists()
    finish(data, run, tmp_path)
    assert_equal_ends(reference(), run)


def test_a_second_signal_ends_it_at_once(data, reference, tmp_path):
    run = tmp_path / "run"
    code, said, seconds = signalled(
        data, run, tmp_path, endless(9), [signal.SIGINT, signal.SIGTERM]
    )
    assert code in (130, 143), said
    assert seconds < 3
    finish(data, run, tmp_path)
    assert_equal_ends(reference(), run)


def test_a_step_that_never_ends_exits_on_the_last_checkpoint(data, reference, tmp_path):
    run = tmp_path / "run"

    def plant(ready):
        signals.PATIENCE = 1.0
        endless(9)(ready)

    code, said, seconds = signalled(data, run, tmp_path, plant, [signal.SIGTERM])
    assert code == 143
    assert 0.9 < seconds < 5
    assert "no step ended within 1 s; stopped on the last checkpoint; go on with:" in said
    finish(data, run, tmp_path)
    assert_equal_ends(reference(), run)


def test_the_patience_is_less_than_ten_seconds():
    assert signals.PATIENCE < 10


def test_signals_are_as_before_after_a_run(reference):
    def handler(*_):
        raise AssertionError

    before = signal.signal(signal.SIGTERM, handler)
    try:
        with signals.StopRequest("") as stop:
            assert signal.getsignal(signal.SIGTERM) is not handler
            os.kill(os.getpid(), signal.SIGTERM)
            until(lambda: stop.signal == signal.SIGTERM)
        assert signal.getsignal(signal.SIGTERM) is handler
        assert signal.set_wakeup_fd(-1) == -1
    finally:
        signal.signal(signal.SIGTERM, before)


@pytest.mark.parametrize("number", [9, 14])
def test_a_full_disk_stops_and_the_run_goes_on(data, reference, tmp_path, number):
    run, log = tmp_path / "run", tmp_path / "log"

    def work():
        full_disk(number)
        return main(["train", *(f"--{k}={v}" for k, v in options(data, run).items())])

    assert wait(in_child(work, log)) == 1
    last = log.read_text().strip().splitlines()[-1]
    assert last.startswith("accuracy-booster: error: cannot write")
    assert "No space left on device" in last
    assert "--resume" in last
    assert checkpoint.load(run)[0] is not None
    assert not list(run.rglob("*.partial"))
    finish(data, run, tmp_path)
    assert_equal_ends(reference(), run)

"""Signals end a training after a checkpoint, and a closed terminal does not lose it."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time

import pytest
from support.hostile import (
    PACKAGE,
)

from accuracy_booster import signals
from accuracy_booster.training import checkpoint

needs_hangup = pytest.mark.skipif(not hasattr(signal, "SIGHUP"), reason="this system has none")


def training(data, run, ignored=None):
    """A training of many epochs, in a process group of its own, with a loader's worker."""

    def before():
        for number in (signal.SIGHUP, signal.SIGINT, signal.SIGTERM):
            signal.signal(number, signal.SIG_IGN if number == ignored else signal.SIG_DFL)

    given = {"model": "resnet8", "data": data, "output": run, "epochs": 500, "batch_size": 6}
    given |= {"image_size": 16, "checkpoint_minutes": 0, "device": "cpu", "compile": "off"}
    words = [f"--{key}={value}" for key, value in {**given, "workers": 1}.items()]
    return subprocess.Popen(
        [sys.executable, "-m", "accuracy_booster", "train", *words],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": PACKAGE, "OMP_NUM_THREADS": "1"},
        start_new_session=True,
        preexec_fn=before,
    )


def until(holds, process, limit=90.0):
    end = time.monotonic() + limit
    while not holds() and process.poll() is None:
        assert time.monotonic() < end, "it did not come about"
        time.sleep(0.02)


@pytest.fixture
def photos(make_folder):
    """Larger than what is kept in memory: a worker reads them."""
    return make_folder({f"{s}/{c}": 6 for s in ("train", "test") for c in "ab"}, size=(66, 70))


@needs_hangup
def test_a_closed_terminal_saves_the_training(photos, tmp_path):
    """The whole group hears of it, and more than once, as from a terminal and its shell."""
    run = tmp_path / "run"
    process = training(photos, run)
    until((run / "checkpoints/manifest.json").exists, process)
    for _ in range(3):
        os.killpg(process.pid, signal.SIGHUP)
    out, err = process.communicate(timeout=60)
    assert process.returncode == 129, err
    assert out == ""
    assert "Traceback" not in err
    last = err.strip().splitlines()[-1]
    found = re.search(r"stopped by signal 1 after step (\d+) of epoch (\d+), which is saved", last)
    assert found, err
    saved, problems = checkpoint.load(run)
    assert not problems
    assert (saved.values["step"], saved.values["epoch"] + 1) == tuple(map(int, found.groups()))


@needs_hangup
@pytest.mark.parametrize("name", ["SIGHUP", "SIGINT"])
def test_what_is_ignored_stays_ignored(name, photos, tmp_path):
    """nohup, and the background of a script: the training goes on."""
    run, number = tmp_path / "run", getattr(signal, name)
    process = training(photos, run, ignored=number)
    rows = run / "metrics.csv"
    until(rows.exists, process)
    process.send_signal(number)
    size = rows.stat().st_size
    until(lambda: rows.stat().st_size > size + 100, process)
    process.send_signal(signal.SIGTERM)
    err = process.communicate(timeout=60)[1]
    assert process.returncode == 143, err
    assert "stopped by signal 15" in err


@needs_hangup
def test_a_training_goes_on_where_its_terminal_is_gone(monkeypatch):
    """Printing to it would raise an error and end the training before it has saved."""
    pty = pytest.importorskip("pty")
    ours, theirs = pty.openpty()
    kept = [os.dup(descriptor) for descriptor in (1, 2)]
    try:
        for descriptor in (1, 2):
            os.dup2(theirs, descriptor)
        os.close(ours)
        signals._leave_closed_terminal()
        written = [os.write(descriptor, b"x") for descriptor in (1, 2)]
    finally:
        for descriptor, copy in zip((1, 2), kept, strict=True):
            os.dup2(copy, descriptor)
            os.close(copy)
        os.close(theirs)
    assert written == [1, 1]


@needs_hangup
def test_signals_are_as_before_after_a_training():
    names = ("SIGHUP", "SIGINT", "SIGTERM")
    before = [signal.getsignal(getattr(signal, name)) for name in names]
    with signals.StopRequest(""):
        pass
    assert [signal.getsignal(getattr(signal, name)) for name in names] == before
    assert signal.set_wakeup_fd(-1) == -1

"""Processes that load images and die, stop or hang end the training in time."""

from __future__ import annotations

import errno
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest
from support.datasets import sentence
from support.loading import children, grey, loader

from accuracy_booster.data import workers
from accuracy_booster.errors import TrainingStopped

pytestmark = pytest.mark.forks


def test_processes_that_cannot_start(monkeypatch):
    def refuse(*_):
        raise OSError(errno.EAGAIN, "Resource temporarily unavailable")

    monkeypatch.setattr("multiprocessing.process.BaseProcess.start", refuse)
    with pytest.raises(
        TrainingStopped, match=r"cannot start 2 processes .* temporarily.*--workers"
    ):
        next(loader().batches(0))


@pytest.mark.parametrize(
    ("error", "message"),
    [
        (ConnectionResetError(104, "reset"), "handed over a batch .*ConnectionResetError"),
        (EOFError(), "handed over a batch .*EOFError"),
        (RuntimeError("Too many open files. Communication with the workers"), "ulimit -n"),
    ],
)
def test_a_batch_that_cannot_be_taken_over(monkeypatch, error, message):
    def fail(self, timeout=0):
        raise error

    name = "torch.utils.data.dataloader._MultiProcessingDataLoaderIter._try_get_data"
    monkeypatch.setattr(name, fail)
    with pytest.raises(TrainingStopped, match=message) as told:
        next(loader().batches(0))
    sentence(told)


def stop_after(made, taken):
    before = children()
    for epoch in range(3):
        for number, _ in enumerate(made.batches(epoch), 1):
            if number == taken and epoch == 0:
                pid = min(children() - before)
                os.kill(pid, signal.SIGSTOP)
                while psutil.Process(pid).status() != psutil.STATUS_STOPPED:
                    time.sleep(0.01)


@pytest.mark.parametrize("taken", [1, 9, 16])
def test_a_stopped_process(monkeypatch, taken):
    """Also one that the main process has asked for a batch, or for the next pass."""
    monkeypatch.setattr(workers, "STOPPED_PATIENCE", 0.3)
    before = children()
    with pytest.raises(TrainingStopped, match=r"process \d+, which loads .* stopped.*--workers 0"):
        stop_after(loader(), taken)
    assert children() <= before


def test_a_process_that_hangs(monkeypatch):
    monkeypatch.setattr(workers, "LOADER_PATIENCE", 0.5)
    before = children()
    with pytest.raises(TrainingStopped, match=r"no batch .* the disk .*--workers 0") as error:
        next(loader(lambda index: time.sleep(1000)).batches(0))
    sentence(error)
    assert children() <= before


def test_slow_batches_are_waited_for(monkeypatch):
    monkeypatch.setattr(workers, "POLL", 0.005)
    made = loader(lambda index: time.sleep(0.02) or grey(index))
    assert sum(len(batch.labels) for batch in made.batches(0)) == 64
    next(made.batches(1))  # a pass that is left
    assert [batch.indices[0].item() for batch in made.batches(2)] == [*range(0, 64, 4)]


def test_python_ends_beside_a_stopped_process():
    code = (
        "import os, signal, psutil, torch\n"
        "from accuracy_booster.data.batches import Loader\n"
        "from accuracy_booster.data.images import TensorImages\n"
        "images = TensorImages(torch.zeros(8, 3, 8, 8, dtype=torch.uint8), [0] * 8)\n"
        "loader = Loader(images, torch.clone, 4, shuffled=False, workers=2)\n"
        "print(len(list(loader.batches(0))))\n"
        "for child in psutil.Process().children():\n"
        "    child.send_signal(signal.SIGSTOP)\n"
    )
    env = os.environ | {"PYTHONPATH": str(Path(__file__).parents[2]), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=100, env=env
    )
    assert (done.stdout, done.stderr) == ("2\n", "")

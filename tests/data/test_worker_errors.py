"""An error of a process that loads images is told in one line."""

from __future__ import annotations

import os
import signal
import time

import pytest
from support.datasets import sentence
from support.loading import children, loader

from accuracy_booster.data.worker_errors import worker_faults
from accuracy_booster.errors import TrainingStopped

pytestmark = pytest.mark.forks


def kill_in_a_step(made):
    before = children()
    for _ in made.batches(0):
        os.kill(min(children() - before), signal.SIGKILL)
        for _ in range(600):  # torch raises in it
            time.sleep(0.05)


def test_a_killed_process_while_the_training_computes():
    made = loader()
    killed = r"process .*loads images.* ended .*[Kk]illed"
    with pytest.raises(TrainingStopped, match=killed) as error, worker_faults():
        kill_in_a_step(made)
    assert "--workers" in sentence(error)
    assert sum(len(batch.labels) for batch in made.batches(0)) == 64


def fail_to_write():
    try:
        raise RuntimeError("DataLoader worker (pid(s) 7) exited unexpectedly")
    except RuntimeError as e:
        raise ValueError("cannot write") from e


def test_a_fault_that_was_made_another_error_on_the_way():
    gone = "process 7, which loads images, ended unexpectedly"
    with pytest.raises(TrainingStopped, match=gone), worker_faults():
        fail_to_write()
    for other in (ValueError("x"), RuntimeError("CUDA error"), TrainingStopped("x")):
        with pytest.raises(type(other)) as error, worker_faults():
            raise other
        assert error.value is other


def raising(error):
    def make(index):
        raise error

    return make


@pytest.mark.parametrize(
    ("number", "error", "message"),
    [
        (1, MemoryError("no room for 7 bytes"), "ran out of memory: .*no room for 7.*--workers"),
        (1, RuntimeError("x: can't allocate memory: 7 bytes"), "ran out of memory: .*7 bytes"),
        (1, KeyError("odd\nthing"), r"failed: KeyError: .*odd\\nthing"),
        (1, ZeroDivisionError("by 0"), "failed: ZeroDivisionError: by 0"),
        (0, MemoryError(), "memory ran out.*MemoryError; use a smaller --batch_size"),
        (0, RuntimeError("x: can't allocate memory: 7 bytes"), "memory ran out.*7 bytes"),
    ],
)
def test_an_error_of_a_process_is_told(number, error, message):
    with pytest.raises(TrainingStopped, match=message) as told:
        next(loader(raising(error), number).batches(0))
    assert "Traceback" not in sentence(told)

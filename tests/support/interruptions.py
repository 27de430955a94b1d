"""Plants: each changes this process, a child of the test, so that it stops at a chosen moment.

They are at public seams: the optimizer's step, the loss, a batch, an image, a file that is written.
"""

from __future__ import annotations

import errno
import math
import os
import signal
import time
from pathlib import Path

import torch
from PIL import ImageFile

from accuracy_booster.training import classification, run_directory, trainer


def die(*_) -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def counted(number, then=die):
    """A function that acts at its call of this number."""
    calls = [0]

    def call(*_) -> None:
        calls[0] += 1
        if calls[0] == number:
            then()

    return call


def in_the_step(number):
    """After the backward pass, before the optimizer changes a weight."""
    real, count = torch.optim.SGD.step, counted(number)

    def step(self, *rest, **more):
        count()
        return real(self, *rest, **more)

    torch.optim.SGD.step = step


def after_the_step(number):
    """The weights are new, the moving average is not."""
    real, count = torch.optim.SGD.step, counted(number)

    def step(self, *rest, **more):
        out = real(self, *rest, **more)
        count()
        return out

    torch.optim.SGD.step = step


def in_evaluation(number, then=die):
    """After this number of measured batches, over all measurements."""
    real, count = classification.measure, counted(number, then)

    def measure(*given):
        *given, on_batch = given

        def each(batch):
            count()
            on_batch(batch)

        return real(*given, each)

    classification.measure = measure


def in_the_loader(number):
    """As the pixels of the image of this number are decoded."""
    real, count = ImageFile.ImageFile.load, counted(number)

    def load(self):
        if self.tile:  # not decoded yet
            count()
        return real(self)

    ImageFile.ImageFile.load = load


def before_the_result(then=die):
    """All epochs are over, and neither the result nor the weights are written."""

    def end(*_):
        then()

    run_directory.Run.end = end


def in_half_a_write(number):
    """Half the bytes of a file are on the disk, under its temporary name."""
    real, count = Path.open, counted(number)

    class Half:
        def __init__(self, file):
            self.file = file

        def __enter__(self):
            return self

        def __exit__(self, *error):
            self.file.close()

        def __getattr__(self, name):
            return getattr(self.file, name)

        def write(self, content):
            self.file.write(content[: len(content) // 2])
            self.file.flush()
            count()
            self.file.write(content[len(content) // 2 :])

    def opened(self, mode="r", *rest, **more):
        file = real(self, mode, *rest, **more)
        return Half(file) if mode == "wb" and "checkpoints" in self.parts else file

    Path.open = opened


def around_a_rename(number, before):
    real, count = Path.replace, counted(number)

    def replace(self, target):
        mine = "checkpoints" in self.parts
        if before and mine:
            count()
        out = real(self, target)
        if mine and not before:
            count()
        return out

    Path.replace = replace


def full_disk(number):
    real, calls = os.fsync, [0]

    def fsync(descriptor):
        calls[0] += 1
        if calls[0] > number:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        real(descriptor)

    os.fsync = fsync


def dropping(rate=0.3):
    """timm's networks with dropout and stochastic depth."""
    import timm

    real = timm.create_model

    def build(name, **given):
        return real(name, **given, drop_rate=rate, drop_path_rate=rate)

    timm.create_model = build


def announce(number):
    """A plant that makes `ready` before the step of this number."""

    def plant(ready):
        real = trainer.Trainer.train_step
        count = counted(number, ready.touch)

        def step(self, *given):
            count()
            if ready.exists():
                time.sleep(0.2)  # so that the signal comes within it
            return real(self, *given)

        trainer.Trainer.train_step = step

    return plant


def endless(number):
    """A plant that makes `ready` in the loss of this number, which does not end."""

    def hang(ready):
        ready.touch()
        time.sleep(600)

    def plant(ready):
        real, count = classification.Classification.loss, counted(number, lambda: hang(ready))

        def loss(self, *given):
            count()
            return real(self, *given)

        classification.Classification.loss = loss

    return plant


def poisoned(monkeypatch, number, kind="loss"):
    """The loss of this number, or its gradient, is not finite."""
    real, calls = classification.Classification.loss, [0]

    def loss(self, forward, batch):
        calls[0] += 1
        value, sums = real(self, forward, batch)
        if calls[0] == number and kind == "loss":
            value = value * math.nan
        elif calls[0] == number:  # the loss is finite: the slope of the root of 0 is not
            value = value + 0 * (0 * next(forward.parameters()).sum()).sqrt()
        return value, sums

    monkeypatch.setattr(classification.Classification, "loss", loss)

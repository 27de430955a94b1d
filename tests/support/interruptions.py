"""Plants: each changes this process, a child of the test, so that it stops at a chosen moment."""

from __future__ import annotations

import errno
import os
import signal
import time
from pathlib import Path

import torch

from accuracy_booster.data import batches
from accuracy_booster.training import classification, evaluation, trainer


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
    """After the backward pass, before the optimizer's step."""
    real, count = trainer.Trainer._agree, counted(number)

    def agree(self, *rest):
        count()
        return real(self, *rest)

    trainer.Trainer._agree = agree


def after_the_step(number):
    """The weights are new, the moving average is not."""
    real, count = torch.optim.SGD.step, counted(number)

    def step(self, *rest, **more):
        out = real(self, *rest, **more)
        count()
        return out

    torch.optim.SGD.step = step


def in_evaluation(number):
    real, count = evaluation.measure, counted(number)

    def measure(*given):
        *given, on_batch = given

        def then(batch):
            count()
            on_batch(batch)

        return real(*given, then)

    classification.measure = measure


def in_the_loader(number):
    real, count = batches._Keyed.__getitem__, counted(number)

    def item(self, key):
        count()
        return real(self, key)

    batches._Keyed.__getitem__ = item


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

        def step(self, batch):
            count()
            if ready.exists():
                time.sleep(0.2)  # so that the signal comes within it
            return real(self, batch)

        trainer.Trainer.train_step = step

    return plant


def endless(number):
    """A plant that makes `ready` in a step that does not end."""

    def plant(ready):
        real, calls = trainer.Trainer._loss, [0]

        def loss(self, *given):
            calls[0] += 1
            if calls[0] == number:
                ready.touch()
                time.sleep(600)
            return real(self, *given)

        trainer.Trainer._loss = loss

    return plant

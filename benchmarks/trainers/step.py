"""One step of a trainer with a boosted network, and what the trainers' files share."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import nn

from accuracy_booster.surgery import attached

STEPS = ("boost", "train", "resume", "save", "load in a new process", "export")


class Step(NamedTuple):
    """What a step left of the gates and of the outputs.

    Attributes:
        trainer: the trainer, as people call it: "lightning", "timm's train.py".
        step: one of STEPS.
        gates: how many gates the network has after the step.
        expected: how many were boosted.
        difference: the largest difference of an output that the step made, relative to the largest
            output. boost: to the base network, with init="identity"; resume, save and load: to the
            trained network; export: to torch. None where there is nothing to compare (train).
        test: the id of the test that backs it.
        note: what a reader should know, and why the step failed if it did.
    """

    trainer: str
    step: str
    gates: int
    expected: int
    difference: float | None
    test: str
    note: str = ""


def gates(model: nn.Module) -> int:
    """How many gates a network has."""
    return len(attached(model))


def difference(output: torch.Tensor, expected: torch.Tensor) -> float:
    """The largest difference, relative to the largest expected output."""
    expected = expected.detach().double()
    return float((output.detach().double() - expected).abs().max() / expected.abs().max())

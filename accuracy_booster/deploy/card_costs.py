"""What a model card says that a network costs: counted, and timed on the machine that writes it."""

# C channels, H W space

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from statistics import median

import torch
from torch import nn

from accuracy_booster.analysis import complexity
from accuracy_booster.analysis.cost_results import Complexity
from accuracy_booster.analysis.machine import Machine, this_machine
from accuracy_booster.analysis.measuring import interleaved_times
from accuracy_booster.surgery.modes import in_eval_mode

BATCHES = (1, 16)
ROUNDS, SECONDS = 30, 5.0  # of the timing; the first three rounds are timed whatever they take


@dataclass(frozen=True)
class Timing:
    """The time of a batch.

    Attributes:
        batch: how many images it has.
        milliseconds: the median time of a batch.
        rounds: how many were timed.
    """

    batch: int
    milliseconds: float
    rounds: int


@dataclass(frozen=True)
class Costs:
    """What a network costs.

    Attributes:
        counted: its parameters and arithmetic, of one image.
        timings: one for each size of a batch; none if it was not timed.
        machine: where it was timed.
    """

    counted: Complexity
    timings: tuple[Timing, ...]
    machine: Machine


def costs_of(
    network: nn.Module,
    input_size: tuple[int, int, int],
    *,
    device: torch.device,
    timed: bool = True,
    batches: Sequence[int] = BATCHES,
) -> Costs:
    """Count and time a network in eval mode, as its users load it: not folded and not compiled.

    Args:
        input_size: (C, H, W) of an image.
        device: where it is timed; it is moved there.
        timed: without it, it is only counted.
    """
    counted = complexity(network, input_size=input_size)
    timings = _timings(network.to(device), input_size, device, batches) if timed else ()
    network.cpu()
    return Costs(counted, timings, this_machine(device))


@torch.inference_mode()
def _timings(
    network: nn.Module, size: tuple[int, int, int], device: torch.device, batches: Sequence[int]
) -> tuple[Timing, ...]:
    with in_eval_mode(network):
        steps = {n: partial(network, torch.randn(n, *size).to(device)) for n in batches}
        times = interleaved_times(steps, device, rounds=ROUNDS, warm_up=2, seconds=SECONDS)
    return tuple(Timing(n, median(times[n]), len(times[n])) for n in batches)

"""The timer and the name of the machine, for `compare` and `bench`."""

# N batch, C channels, H W space

from __future__ import annotations

import contextlib
import math
import platform
import random
import time
from collections.abc import Callable, Hashable, Mapping
from functools import partial
from statistics import median
from typing import Any, TypeVar

import torch
from torch import nn

from accuracy_booster.surgery.modes import in_eval_mode

Name = TypeVar("Name", bound=Hashable)
FEWEST_ROUNDS = 3  # these are measured even if the time is up
# what is timed must take this long, in seconds, or its first call counts too much
LONG_ENOUGH = 0.1
MOST_CALLS = 50  # in a row


def interleaved_times(
    steps: Mapping[Name, Callable[[], Any]],
    device: torch.device,
    *,
    rounds: int,
    warm_up: int = 0,
    seconds: float | None = None,
    calls: Mapping[Name, int] | None = None,
    after_round: Callable[[], object] = lambda: None,
) -> dict[Name, list[float]]:
    """Time several steps, each of them once in every round.

    If the machine is slow for a while, it is slow for all steps of a round, so times of one round
    can be compared. Each round has the steps in another random order, so that none of them always
    runs after the same other one.

    Args:
        steps: functions without arguments, by name.
        device: where the steps compute. On "cuda" the timer waits for the kernels.
        rounds: how often each step is timed.
        warm_up: rounds before them that are not timed.
        seconds: no round starts later than this after the first one, except for the first three.
        calls: how often each step runs in a row in one timing, by name; once by default.
        after_round: called after each timed round.

    Returns:
        Milliseconds of one call by step, one number for each round.
    """
    times: dict[Name, list[float]] = {name: [] for name in steps}
    orders = random.Random(0)
    begin = time.perf_counter()
    for number in range(-warm_up, rounds):
        if number == 0:
            begin = time.perf_counter()
        late = seconds is not None and time.perf_counter() - begin > seconds
        if late and number >= FEWEST_ROUNDS:
            break
        for name in orders.sample(list(steps), len(steps)):
            taken = seconds_of(steps[name], device, calls[name] if calls else 1)
            if number >= 0:
                times[name].append(1e3 * taken)
        if number >= 0:
            after_round()
    return times


def seconds_of(step: Callable[[], Any], device: torch.device, calls: int = 1) -> float:
    """The time of one call, from so many in a row; a GPU has no other work before and after."""
    _wait(device)
    start = time.perf_counter()
    for _ in range(calls):
        step()
    _wait(device)
    return (time.perf_counter() - start) / calls


def calls_in_a_row(step: Callable[[], Any], device: torch.device) -> int:
    """How many calls are timed together, so that they take long enough to be timed.

    The first of them finds the caches as another network left them, the others as they are in use.
    On a GPU the launches of a call overlap with the kernels of the call before, as they do in use.
    """
    once = min(seconds_of(step, device) for _ in range(3))
    return max(1, min(MOST_CALLS, math.ceil(LONG_ENOUGH / once)))


@torch.inference_mode()
def latency(
    models: Mapping[str, nn.Module],
    input_size: tuple[int, int, int],
    *,
    batch_size: int = 64,
    rounds: int = 15,
) -> dict[str, float]:
    """Milliseconds per image of inference in eval mode.

    The models run on batches [batch_size, *input_size] of random numbers, on the device of the
    first model. The time of a model is the median over the rounds.
    """
    steps: dict[str, Callable[[], Any]] = {}
    with contextlib.ExitStack() as modes:
        for name, model in models.items():
            modes.enter_context(in_eval_mode(model))
            like = next(model.parameters())
            x = torch.randn(batch_size, *input_size, device=like.device, dtype=like.dtype)
            steps[name] = partial(model, x)
        device = next(next(iter(models.values())).parameters()).device
        times = interleaved_times(steps, device, rounds=rounds, warm_up=2)
    return {name: median(values) / batch_size for name, values in times.items()}


def processor() -> str:
    """The name of the processor's model, as the system knows it."""
    with contextlib.suppress(OSError), open("/proc/cpuinfo") as lines:
        for line in lines:
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def _wait(device: torch.device) -> None:
    """Wait for the kernels of a GPU."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)

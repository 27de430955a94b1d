"""How the training step runs, compiled or not and fused or not: decided once in a run's life.

A compiled or fused step rounds differently, so a run that is resumed keeps to what was decided.
"""

# C channels, H W space

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from statistics import median
from typing import Any

import torch
from torch import nn

from accuracy_booster.fastpath import fuse, unfuse
from accuracy_booster.ops import native
from accuracy_booster.ops.batch_norm import BatchNormMode
from accuracy_booster.surgery.listing import attached
from accuracy_booster.surgery.state import state_of
from accuracy_booster.training.run_directory import Run
from accuracy_booster.training.task import Forward

WORTH = 900.0  # seconds of eager training from which on compiling is tried
GAIN = 0.97  # the share of the eager step's time that the compiled one may take
FEWEST_STEPS = 500  # from which on compiling is tried


@dataclass(frozen=True)
class StepToCompile:
    """What the decision needs of a training.

    Attributes:
        compile, fuse: the settings: auto, on or off.
        network: the network itself, which is fused in place.
        wrapped: the same network as accelerate prepared it, whose forward pass is compiled.
        input_size: (C, H, W) of an image.
        processes: how many train together.
        steps: how many are left.
        loss: (forward pass, batch) -> mean loss.
        first_batch: gives a batch to try a step on.
        say: prints a line, in the first process.
    """

    compile: str
    fuse: str
    network: nn.Module
    wrapped: nn.Module
    input_size: tuple[int, int, int]
    device: torch.device
    processes: int
    steps: int
    loss: Callable[[Forward, Any], torch.Tensor]
    first_batch: Callable[[], Any]
    say: Callable[[str], None]


def choose_forward(step: StepToCompile, run: Run, *, writes: bool) -> Forward:
    """The network's forward pass for training, as run.json has it or as is decided now.

    Args:
        writes: write the decision into run.json, which the first process does.
    """
    decided = run.info.get("decided", {})
    if "compile" not in decided:
        compile = _pays(step)
        decided = {"compile": compile, "fuse": fuses(step, compile)}
        if writes:
            run.write_info({"decided": decided})
    return prepare_forward(step, decided["compile"], decided.get("fuse", False))


def fuses(step: StepToCompile, compile: bool) -> bool:
    """Whether the step is fused: by default where that makes a step of this network faster.

    That is so for every compiled step, and for an eager step on the CPU of a network with gates,
    where the C++ for the CPU could be compiled. An eager step on a GPU waits for its kernels to be
    launched. Fused, it launches more of them from Python: it takes less memory and more time
    (docs/gpu.md).
    """
    if step.fuse != "auto":
        return step.fuse == "on"
    on_cpu = step.device.type == "cpu" and bool(attached(step.network))
    return compile or (on_cpu and native.library() is not None)


def prepare_forward(step: StepToCompile, compile: bool, fused: bool) -> Forward:
    """The forward pass, compiled or not; the network is fused or unfused in place."""
    if fused != (state_of(step.network).fast_path is not None):
        if fused:
            fuse(step.network, example=torch.zeros(1, *step.input_size))
        else:
            unfuse(step.network)
    return _compiled(step.wrapped, step.device) if compile else step.wrapped


def _compiled(network: nn.Module, device: torch.device) -> Forward:
    """The compiled forward pass; on the CPU with batch norms that reduce in parallel."""
    fast = torch.compile(network, dynamic=False)
    if device.type != "cpu":
        return fast

    def forward(x: torch.Tensor) -> torch.Tensor:
        with BatchNormMode():
            return fast(x)

    return forward


def _pays(step: StepToCompile) -> bool:
    """Whether the step is to be compiled; for "auto" it is tried, and the network put back."""
    if step.compile != "auto":
        return step.compile == "on"
    if step.processes > 1 or step.steps < FEWEST_STEPS:
        return False
    batch = step.first_batch()
    if not len(batch.labels):
        return False
    kept = {k: v.clone() for k, v in step.network.state_dict().items()}
    try:
        eager = _seconds(step, batch, prepare_forward(step, False, fuses(step, False)))
        if eager * step.steps < WORTH:
            return False
        step.say(f"compiling the step, which takes {eager:.3f} s (--compile off does without)")
        faster = _seconds(step, batch, prepare_forward(step, True, fuses(step, True)))
        step.say(f"compiled: {faster:.3f} s")
        return faster < GAIN * eager
    except Exception as e:  # compilers fail in many ways, and training goes on without
        step.say(f"not compiled: {type(e).__name__}: {' '.join(str(e).split())[:200]}")
        return False
    finally:
        step.network.load_state_dict(kept)
        step.network.zero_grad(set_to_none=True)


def _seconds(step: StepToCompile, batch: Any, forward: Forward) -> float:
    """The median time of a forward and a backward pass, after the first two."""
    step.wrapped.train()
    times = []
    for _ in range(5):
        start = time.perf_counter()
        loss = step.loss(forward, batch)
        loss.backward()
        loss.item()  # waits for the device
        times.append(time.perf_counter() - start)
    return median(times[2:])

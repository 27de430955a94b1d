"""Whether to compile the training step: measured once, kept in the run, used again on resuming.

A compiled step rounds differently, so a run keeps to what it chose.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from statistics import median
from typing import TYPE_CHECKING, Any

import torch

from accuracy_booster.ops.batch_norm import BatchNorms
from accuracy_booster.training.run import Run

if TYPE_CHECKING:
    from accuracy_booster.training.loop import Trainer

WORTH = 900.0  # seconds of eager training from which on compiling is tried
GAIN = 0.97  # of the eager step's time that the compiled one may take


def choose(trainer: Trainer, run: Run) -> Callable[[torch.Tensor], torch.Tensor]:
    """The network's forward pass for training, compiled or not, as the run has it or now decides.

    The decision is in `run.json` before the first step.
    """
    decided = run.info.get("decided", {})
    if "compile" not in decided:
        decided = {"compile": _decide(trainer)}
        if trainer.accelerator.is_main_process:
            run.write_info({"decided": decided})
    return compiled(trainer) if decided["compile"] else trainer.network


def compiled(trainer: Trainer) -> Callable[[torch.Tensor], torch.Tensor]:
    """The compiled forward pass; on the CPU with batch norms that reduce in parallel."""
    fast = torch.compile(trainer.network, dynamic=False)
    if trainer.device.type != "cpu":
        return fast

    def forward(x: torch.Tensor) -> torch.Tensor:
        with BatchNorms():
            return fast(x)

    return forward


def _decide(trainer: Trainer) -> bool:
    config = trainer.config
    if config.compile != "auto":
        return config.compile == "on"
    steps = (config.epochs - trainer.epoch) * len(trainer.loaders["train"])
    if trainer.world > 1 or steps < 500:
        return False
    batch = next(iter(trainer.loaders["train"].batches(0, device=trainer.device)))
    if not len(batch.labels):
        return False
    kept = {k: v.clone() for k, v in trainer.plain.state_dict().items()}
    try:
        eager = _seconds(trainer, batch, trainer.network)
        if eager * steps < WORTH:
            return False
        trainer._say(f"compiling the step, which takes {eager:.3f} s (--compile off does without)")
        faster = _seconds(trainer, batch, compiled(trainer))
        trainer._say(f"compiled: {faster:.3f} s")
        return faster < GAIN * eager
    except Exception as e:  # compilers fail in many ways, and training goes on without
        trainer._say(f"not compiled: {type(e).__name__}: {' '.join(str(e).split())[:200]}")
        return False
    finally:
        trainer.plain.load_state_dict(kept)
        trainer.optimizer.zero_grad(set_to_none=True)


def _seconds(
    trainer: Trainer, batch: Any, forward: Callable[[torch.Tensor], torch.Tensor]
) -> float:
    """The time of a forward and a backward pass; what they leave behind is put back."""
    before, trainer.forward = trainer.forward, forward
    trainer.network.train()
    times = []
    try:
        for _ in range(5):
            start = time.perf_counter()
            loss, _ = trainer._loss(batch.images, batch.labels)
            loss.backward()
            loss.item()  # waits for the device
            times.append(time.perf_counter() - start)
    finally:
        trainer.forward = before
    return median(times[2:])

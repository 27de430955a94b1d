"""How the training step runs, compiled and fused or not: decided once, kept for resuming.

A compiled step rounds differently, so a run keeps to what it chose.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from statistics import median
from typing import TYPE_CHECKING, Any

import torch

from accuracy_booster import fastpath
from accuracy_booster.ops.backend import has_triton
from accuracy_booster.ops.batch_norm import BatchNorms
from accuracy_booster.surgery.state import state_of
from accuracy_booster.training.run_directory import Run

if TYPE_CHECKING:
    from accuracy_booster.training.trainer import Trainer

WORTH = 900.0  # seconds of eager training from which on compiling is tried
GAIN = 0.97  # of the eager step's time that the compiled one may take


def choose(trainer: Trainer, run: Run) -> Callable[[torch.Tensor], torch.Tensor]:
    """The network's forward pass for training, as the run has it or now decides.

    The decision is in `run.json` before the first step: whether to compile, and whether to fuse
    each norm with its gate, sum and ReLU.
    """
    decided = run.info.get("decided", {})
    if not hasattr(trainer.config, "compile"):  # a task whose steps are not compiled
        return trainer.network
    if "compile" not in decided:
        compile = _decide(trainer)
        decided = {"compile": compile, "fuse": fuses(trainer, compile)}
        if trainer.accelerator.is_main_process:
            run.write_info({"decided": decided})
    return prepared(trainer, decided["compile"], decided.get("fuse", False))


def fuses(trainer: Trainer, compile: bool) -> bool:
    """Whether the step is fused: by default where a compiler or kernels make it fast."""
    if trainer.config.fuse != "auto":
        return trainer.config.fuse == "on"
    return compile or (trainer.device.type == "cuda" and has_triton())


def prepared(trainer: Trainer, compile: bool, fuse: bool) -> Callable[[torch.Tensor], torch.Tensor]:
    """The forward pass, compiled or not, of a network that is fused or not."""
    plain = trainer.plain
    if fuse != (state_of(plain).fast_path is not None):
        if fuse:
            fastpath.fuse(plain, example=torch.zeros(1, *trainer.config.input_size))
        else:
            fastpath.unfuse(plain)
    return compiled(trainer) if compile else trainer.network


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
        forward = prepared(trainer, True, fuses(trainer, True))
        faster = _seconds(trainer, batch, forward)
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
            loss, _ = trainer._loss(batch)
            loss.backward()
            loss.item()  # waits for the device
            times.append(time.perf_counter() - start)
    finally:
        trainer.forward = before
    return median(times[2:])

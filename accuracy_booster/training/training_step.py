"""One step of a training: forward and backward passes, checks, and the optimizer's step."""

# N images of a batch

from __future__ import annotations

import contextlib
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import nn

from accuracy_booster.data.random_streams import mix
from accuracy_booster.errors import Diverged
from accuracy_booster.training.learning_rate import rate_factor, set_rates
from accuracy_booster.training.processes import synchronised
from accuracy_booster.training.task import Forward, Task
from accuracy_booster.training.trainer_state import TrainerState

if TYPE_CHECKING:
    from accelerate import Accelerator

STEP = 1  # the number of a step's random stream, beside those of `data.batches`


class Requests(NamedTuple):
    """What is to be done after a step: what one process asks for, or what all have agreed on."""

    stop: bool = False  # save, and end the process
    save: bool = False  # write a checkpoint


class TrainingStep:
    """The step of one process.

    Attributes:
        forward: the network's forward pass in training mode, which may be compiled.
    """

    def __init__(
        self,
        task: Task,
        accelerator: Accelerator,
        network: nn.Module,
        frozen_norms: Sequence[nn.Module],
        state: TrainerState,
    ):
        self.forward: Forward = network
        self._task, self._config = task, task.config
        self._accelerator, self._network = accelerator, network
        self._frozen_norms, self._state = frozen_norms, state
        self._steps = len(task.data.loaders["train"])
        self._synchronised = task.config.synchronised and accelerator.num_processes > 1

    def __call__(self, batch: Any, requests: Callable[[], Requests] = Requests) -> Requests:
        """Take one step of the optimizer on this process's share of a batch.

        Args:
            requests: asks what this process wants. It is called after the backward pass, so that
                it hears of a signal that came during the passes.

        Returns:
            What all processes agreed to do now.

        Raises:
            Diverged: before a step whose loss or gradient is not finite.
            TrainingStopped: if more images cannot be read than `bad_images` allows.
        """
        from accelerate.utils import set_seed

        state, accelerator = self._state, self._accelerator
        state.unreadable.note(batch.unreadable)
        batch.check_trainable()
        self.set_rates(state.step)
        rank = accelerator.process_index
        set_seed(mix(self._config.seed, state.epoch, state.step, rank, STEP) % 2**32)
        self.set_mode(self._network)
        state.optimizer.zero_grad(set_to_none=True)
        finite = self._backward(batch)
        norm = self._clip()
        agreed = self._agree(finite, norm, batch, requests())
        state.optimizer.step()
        if state.average is not None:
            state.average.update(state.network)
        state.step += 1
        return agreed

    def set_rates(self, step: int) -> None:
        """Set the learning rates of a step of the epoch."""
        steps = max(1, self._steps)
        factor = rate_factor(self._config, self._state.epoch, step / steps, steps)
        set_rates(self._state.optimizer, factor)

    def set_mode(self, network: nn.Module) -> None:
        """Put a network into training mode, all but the norms of a frozen base network."""
        network.train()
        for module in self._frozen_norms:
            module.training = False  # not eval(), which would reach a gate that is its child

    def loss(self, forward: Forward, batch: Any) -> tuple[torch.Tensor, torch.Tensor]:
        """The mean loss of a batch, and what it adds to the epoch's sums, as `Task.loss`."""
        with synchronised() if self._synchronised else contextlib.nullcontext():
            return self._task.loss(forward, batch)

    def _backward(self, batch: Any) -> torch.Tensor:
        """Accumulate the gradients of the batch's parts; returns whether all losses are finite."""
        state = self._state
        finite = torch.ones((), dtype=torch.bool, device=self._accelerator.device)
        parts = batch.parts(self._config.accumulate)
        for i, part in enumerate(parts):
            last = i + 1 == len(parts)  # the gradients of all processes are added up after it
            with contextlib.nullcontext() if last else self._accelerator.no_sync(self._network):
                loss, sums = self.loss(self.forward, part)
                self._accelerator.backward(loss * (len(part) / len(batch)))
            finite &= loss.detach().isfinite()
            state.sums += sums
        return finite

    def _clip(self) -> Any:
        """The norm of the gradient, which is clipped if the configuration wants that."""
        trained = [p for p in self._state.network.parameters() if p.grad is not None]
        if self._config.clip_grad:
            return self._accelerator.clip_grad_norm_(trained, self._config.clip_grad)
        return nn.utils.get_total_norm([p.grad for p in trained if p.grad is not None])

    def _agree(self, finite: torch.Tensor, norm: Any, batch: Any, asked: Requests) -> Requests:
        """Stop in all processes if one of them must; else agree on what is done after the step.

        All of it takes one sum over the processes.
        """
        state, device = self._state, self._accelerator.device
        save = asked.save and self._accelerator.process_index == 0
        own = [asked.stop, save, len(state.unreadable)]
        flags = torch.stack([~finite, ~torch.as_tensor(norm, device=device).isfinite()])
        flags = torch.cat([flags.float(), torch.tensor(own, device=device).float()])
        if self._accelerator.num_processes > 1:
            flags = self._accelerator.reduce(flags, "sum")
        *counts, unreadable = flags.tolist()
        state.unreadable.check(unreadable)
        loss_bad, norm_bad, stop, save = (count > 0 for count in counts)
        if norm_bad and not loss_bad and state.scaler is not None:
            state.skipped += 1  # the scaler will skip this step
            if state.skipped > self._config.skipped_steps:
                skipped = f"fp16's loss scaling skipped {state.skipped} steps in a row"
                raise self._diverged(skipped, batch)
        elif loss_bad or norm_bad:
            what = "loss" if loss_bad else "norm of the gradient"
            raise self._diverged(f"the {what} is not finite", batch)
        else:
            state.skipped = 0
        return Requests(stop, save)

    def _diverged(self, what: str, batch: Any) -> Diverged:
        state = self._state
        numbers = ", ".join(map(str, batch.indices[:8].tolist()))
        rate = state.optimizer.param_groups[0]["lr"]
        return Diverged(
            f"{what} at step {state.step + 1} of {self._steps} in epoch {state.epoch + 1}, "
            f"lr={rate:g}, batch of images {numbers}, ...; nothing of this step was saved; try a "
            "lower lr, or a warm-up"
        )

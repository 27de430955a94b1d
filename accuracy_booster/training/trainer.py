"""`Trainer`: a task's network in training, with its optimizer and its state.

`training.fitting` trains it for all epochs.
"""

# C channels, H W space

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import nn

from accuracy_booster.ops import backend, keep_freed_memory
from accuracy_booster.training.accelerator import make_accelerator
from accuracy_booster.training.checkpoint import Checkpoint
from accuracy_booster.training.compiling import StepToCompile
from accuracy_booster.training.optimizer import make_optimizer
from accuracy_booster.training.processes import check_processes_agree
from accuracy_booster.training.task import OnBatch, Task
from accuracy_booster.training.trainer_state import TrainerState
from accuracy_booster.training.training_step import Requests, TrainingStep
from accuracy_booster.training.unreadable_images import UnreadableImages


def silent(line: str) -> None:
    """Print nothing."""


class Trainer:
    """A network that is trained in this process, perhaps together with other processes.

    After it is made, `initialise` or `restore` gives the network its weights.

    Args:
        task: with its data open.
        say: prints a line; it is used in the first process only.
        keeps_head: whether a frozen network's head stays as it is. It is decided once in a run's
            life, since a run that is resumed does not need the file of weights any more.

    Attributes:
        network: the network itself, without accelerate's wrapper.
        state: all that changes from step to step.
        main: whether this is the first process, which writes and prints.

    Raises:
        ValueError: if the device, the precision or the batch size does not fit, or the processes
            have other data or settings than one another.
    """

    def __init__(
        self,
        task: Task,
        *,
        say: Callable[[str], None] = silent,
        keeps_head: bool | None = None,
    ):
        from accelerate.utils import set_seed

        self.task, self.config, self.data = task, task.config, task.data
        config = self.config
        self.accelerator = make_accelerator(config)
        self.rank = self.accelerator.process_index
        self.processes = self.accelerator.num_processes
        self.device = self.accelerator.device
        self.main: bool = self.accelerator.is_main_process
        self.say = say if self.main else silent
        check_processes_agree(self.accelerator, config, self.data)
        self._check_batch_size()
        if self.device.type == "cpu":
            keep_freed_memory()
        set_seed(config.seed)
        self.network = task.build()
        self.keeps_head = task.keeps_head(self.network) if keeps_head is None else keeps_head
        frozen_norms = task.freeze(self.network, keeps_head=self.keeps_head)
        fused = self.device.type in ("cpu", "cuda")
        optimizer = make_optimizer(self.network, config, fused=fused)
        self._wrapped, optimizer = self.accelerator.prepare(self.network, optimizer)
        self.loaders = self.data.loaders
        self.state = TrainerState(
            network=self.network,
            optimizer=optimizer,
            scaler=self.accelerator.scaler,
            sums=torch.zeros(task.sums, dtype=torch.float64, device=self.device),
            unreadable=UnreadableImages(config.bad_images, self.say, processes=self.processes),
        )
        self.step = TrainingStep(task, self.accelerator, self._wrapped, frozen_norms, self.state)

    def _check_batch_size(self) -> None:
        config, least = self.config, self.config.least_images
        parts = self.processes * config.accumulate
        if config.batch_size % parts or config.batch_size < least * parts:
            why = f", and at least {least * parts}: a batch norm needs two images in each part"
            raise ValueError(
                f"batch_size={config.batch_size} must be a multiple of the {self.processes} "
                f"processes times accumulate={config.accumulate}{why if least > 1 else ''}"
            )

    # --- its weights

    def initialise(self, say: Callable[[str], None] | None = None) -> None:
        """Give the network of a run its initial weights, and start the moving average of them.

        Args:
            say: prints lines on what was done; by default as the trainer does.

        Raises:
            ValueError: for weights of another network.
        """
        say = say or self.say
        if self.config.weights is not None:
            say(self.task.start_from_weights(self.network))
        self.task.prepare(self.network, say)
        self.state.start_average(self.config)

    def restore(self, saved: Checkpoint) -> None:
        """Resume from a checkpoint.

        Raises:
            ValueError: for a checkpoint of another network.
        """
        self.state.start_average(self.config)
        self.state.restore(saved, takes_sums=self.rank == 0)

    def check_network(self) -> None:
        """Try a training step's forward pass, and leave the network as it was.

        Raises:
            ValueError: if it cannot take such images, or gives what cannot be trained.
        """
        before = {name: buffer.clone() for name, buffer in self.network.named_buffers()}
        self.step.set_mode(self.network)
        try:
            self.task.try_network(self.network, self.device)
        finally:
            for name, buffer in self.network.named_buffers():
                if name in before:
                    buffer.copy_(before[name])

    # --- its work

    def train_step(self, batch: Any, requests: Callable[[], Requests] = Requests) -> Requests:
        """Take one step on this process's share of a batch, as `TrainingStep` explains."""
        return self.step(batch, requests)

    def measure(
        self,
        split: str,
        on_batch: OnBatch = lambda batch: None,
        network: nn.Module | None = None,
    ) -> Any:
        """The task's metrics of a split.

        Args:
            on_batch: called after each batch.
            network: what is measured; by default the network as it is now.

        Raises:
            TrainingStopped: if more images cannot be read than `bad_images` allows.
        """

        def note(batch: Any) -> None:
            self.state.unreadable.note(batch.unreadable, split)
            on_batch(batch)

        with backend.using("unfused"):  # as `ab.evaluate` will measure it
            network = network or self.state.kept_network
            return self.task.measure(network, split, self.accelerator, note)

    def summed(self, values: torch.Tensor) -> torch.Tensor:
        """The sum over the processes."""
        return values if self.processes == 1 else self.accelerator.reduce(values, "sum")

    def step_to_compile(self) -> StepToCompile | None:
        """What `compiling` decides about; None for a task whose steps are not compiled."""
        config, loader = self.config, self.loaders["train"]
        if not hasattr(config, "compile"):
            return None
        return StepToCompile(
            compile=config.compile,
            fuse=config.fuse,
            network=self.network,
            wrapped=self._wrapped,
            input_size=config.input_size,
            device=self.device,
            processes=self.processes,
            steps=(config.epochs - self.state.epoch) * len(loader),
            loss=lambda forward, batch: self.step.loss(forward, batch)[0],
            first_batch=lambda: next(iter(loader.batches(0, device=self.device))),
            say=self.say,
        )

"""The one trainer: its steps, its state, and what interrupts it.

All that a step depends on is in the checkpoint or a function of (seed, epoch, step): the order of
the images, their augmentation, torch's, numpy's and Python's random states. So a run that was
killed goes on bit for bit.
"""

# N batch, C channels, H W space

from __future__ import annotations

import contextlib
import shlex
import time
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import nn

from accuracy_booster.data.random_streams import mix
from accuracy_booster.data.worker_errors import worker_faults
from accuracy_booster.errors import Diverged, TrainingInterrupted, TrainingStopped
from accuracy_booster.ops import backend, keep_freed_memory
from accuracy_booster.signals import StopRequest
from accuracy_booster.training import checkpoint, compiling, engine
from accuracy_booster.training.processes import agree
from accuracy_booster.training.run_directory import Run
from accuracy_booster.training.synchronise import synchronised
from accuracy_booster.training.task import Forward, Task

STEP = 1  # of the random stream of a step, beside those of `data.batches`


class Trainer:
    """The state of a run and its steps; `fit` runs them all."""

    def __init__(self, task: Task, *, keeps_head: bool | None = None):
        from accelerate.utils import set_seed

        self.task, self.config, self.data = task, task.config, task.data
        config = self.config
        self.accelerator = engine.make_accelerator(config)
        self.rank = self.accelerator.process_index
        self.world = self.accelerator.num_processes
        self.device = self.accelerator.device
        agree(self.accelerator, config, self.data)
        self.together = config.synchronised and self.world > 1
        self._check_batch_size()
        if self.device.type == "cpu":
            keep_freed_memory()
        set_seed(config.seed)
        self.plain = task.build()
        # decided once: a run that goes on does not need the file of weights any more
        self.keeps_head = task.keeps_head(self.plain) if keeps_head is None else keeps_head
        self.frozen_norms = task.freeze(self.plain, keeps_head=self.keeps_head)
        fused = self.device.type in ("cpu", "cuda")
        optimizer = engine.make_optimizer(self.plain, config, fused=fused)
        self.network, self.optimizer = self.accelerator.prepare(self.plain, optimizer)
        self.forward: Forward = self.network
        self.average = engine.make_average(self.plain, config)
        self.loaders = self.data.loaders
        self.epoch = self.step = 0  # the next step is number `step` (from 0) of `epoch`
        self.sums = self._no_sums()
        self.history: list[dict[str, float]] = []
        self.unreadable: dict[str, str] = {}
        self.asked = self.due = False
        self._saved = time.monotonic()
        self.skipped = 0  # steps in a row, by fp16's loss scaling
        self.seconds = 0.0  # before this process went on

    def _check_batch_size(self) -> None:
        config, least = self.config, self.config.least_images
        parts = self.world * config.accumulate
        if config.batch_size % parts or config.batch_size < least * parts:
            why = f", and at least {least * parts}: a batch norm needs two images in each part"
            raise ValueError(
                f"batch_size={config.batch_size} must be a multiple of the {self.world} processes "
                f"times accumulate={config.accumulate}{why if least > 1 else ''}"
            )

    def start_from_weights(self) -> str:
        """Put the weights that the configuration names into the network; returns what came."""
        line = self.task.start_from_weights(self.plain)
        self.average = engine.make_average(self.plain, self.config)
        return line

    def prepare(self, say: Callable[[str], None]) -> None:
        """Make the network of a new run ready to train, once its weights are there."""
        self.task.prepare(self.plain, say)
        self.average = engine.make_average(self.plain, self.config)

    def check_network(self) -> None:
        """Try a training step's forward pass, and leave the network as it was.

        Raises:
            ValueError: if it cannot take such images, or gives what cannot be trained.
        """
        plain = self.plain
        before = {name: buffer.clone() for name, buffer in plain.named_buffers()}
        self._training_mode(plain)
        try:
            self.task.try_network(plain, self.device)
        finally:
            for name, buffer in plain.named_buffers():
                if name in before:
                    buffer.copy_(before[name])

    def _training_mode(self, network: nn.Module) -> None:
        network.train()
        for module in self.frozen_norms:
            module.training = False  # not eval(): a gate may be its child

    def _no_sums(self) -> torch.Tensor:
        """Of an epoch so far. float64, so that the order hardly matters."""
        return torch.zeros(self.task.sums, dtype=torch.float64, device=self.device)

    # --- a step

    def train_step(self, batch: Any) -> None:
        """One optimizer step on this process's share of a batch.

        It leaves in `asked` whether a process was told to stop, in `due` whether to save now.

        Raises:
            TrainingStopped: before a step whose loss or gradient is not finite.
        """
        from accelerate.utils import set_seed

        config = self.config
        self._note(batch.unreadable)
        batch.check_trainable()
        self._set_rates(self.step)
        set_seed(mix(config.seed, self.epoch, self.step, self.rank, STEP) % 2**32)
        self._training_mode(self.network)
        self.optimizer.zero_grad(set_to_none=True)
        finite = torch.ones((), dtype=torch.bool, device=self.device)
        parts = batch.parts(config.accumulate)
        for i, part in enumerate(parts):
            last = i + 1 == len(parts)
            with contextlib.nullcontext() if last else self.accelerator.no_sync(self.network):
                loss, sums = self._loss(part)
                self.accelerator.backward(loss * (len(part) / len(batch)))
            finite &= loss.detach().isfinite()
            self.sums += sums
        trained = [p for p in self.plain.parameters() if p.grad is not None]
        norm: Any
        if config.clip_grad:
            norm = self.accelerator.clip_grad_norm_(trained, config.clip_grad)
        else:
            norm = nn.utils.get_total_norm([p.grad for p in trained if p.grad is not None])
        self._agree(finite, norm, batch)
        self.optimizer.step()
        if self.average is not None:
            self.average.update(self.plain)
        self.step += 1

    def _set_rates(self, step: int) -> None:
        steps = max(1, len(self.loaders["train"]))
        factor = engine.rate_factor(self.config, self.epoch, step / steps, steps)
        engine.set_rates(self.optimizer, factor)

    def _loss(self, batch: Any) -> tuple[torch.Tensor, torch.Tensor]:
        with synchronised() if self.together else contextlib.nullcontext():
            return self.task.loss(self.forward, batch)

    def _agree(self, finite: torch.Tensor, norm: Any, batch: Any) -> None:
        """Stop before a step that would spread what is not finite; else all agree on what follows.

        Raises:
            TrainingStopped: in all processes, if the loss or the gradient of one is not finite.
        """
        late = time.monotonic() - self._saved >= 60 * self.config.checkpoint_minutes
        own = [self.stop.signal is not None, late and self.rank == 0, len(self.unreadable)]
        flags = torch.stack([~finite, ~torch.as_tensor(norm, device=self.device).isfinite()])
        flags = torch.cat([flags.float(), torch.tensor(own, device=self.device).float()])
        *bad, asked, due, unreadable = self._summed(flags).tolist()
        self._bound(unreadable)
        loss_bad, norm_bad, self.asked, self.due = (value > 0 for value in (*bad, asked, due))
        if norm_bad and not loss_bad and self.accelerator.scaler is not None:
            self.skipped += 1  # the scaler skips this step
            if self.skipped > self.config.skipped_steps:
                what = f"fp16's loss scaling skipped {self.skipped} steps in a row"
                raise self._stopped(what, batch)
        elif loss_bad or norm_bad:
            what = "loss" if loss_bad else "norm of the gradient"
            raise self._stopped(f"the {what} is not finite", batch)
        else:
            self.skipped = 0

    def _stopped(self, what: str, batch: Any) -> Diverged:
        numbers = ", ".join(map(str, batch.indices[:8].tolist()))
        rate = self.optimizer.param_groups[0]["lr"]
        steps = len(self.loaders["train"])
        return Diverged(
            f"{what} at step {self.step + 1} of {steps} in epoch {self.epoch + 1}, lr={rate:g}, "
            f"batch of images {numbers}, ...; nothing of this step was saved; try a lower lr, or "
            "a warm-up"
        )

    def _note(self, unreadable: Mapping[int, str], split: str = "train") -> None:
        """Tell and count images that could not be read."""
        for index, reason in unreadable.items():
            key = f"{split} {index}"
            if key not in self.unreadable:
                self.unreadable[key] = reason
                self._say(f"skipped, {reason} ({len(self.unreadable)} so far)")
        if self.world == 1:  # several agree first: one that stops alone keeps the others waiting
            self._bound(len(self.unreadable))

    def _bound(self, unreadable: float) -> None:
        """Stop the training if all processes together met too many unreadable images."""
        limit = self.config.bad_images
        if unreadable > limit:
            last = next(reversed(self.unreadable.values()), "met by another process")
            raise TrainingStopped(
                f"{unreadable:.0f} images cannot be read, more than bad_images={limit}; the last: "
                f"{last}"
            )

    def _summed(self, values: torch.Tensor) -> torch.Tensor:
        """Over the processes."""
        return values if self.world == 1 else self.accelerator.reduce(values, "sum")

    def _say(self, text: str) -> None:
        if self.accelerator.is_main_process:
            self.console.print(text)

    # --- its state

    def save(self) -> None:
        """Write a checkpoint; of several processes the first one does."""
        self._saved = time.monotonic()
        sums = self._summed(self.sums)
        if not self.accelerator.is_main_process:
            return
        tensors = {f"network.{k}": v for k, v in self.plain.state_dict().items()}
        if self.average is not None:
            tensors |= {f"average.{k}": v for k, v in self.average.module.state_dict().items()}
        for i, parameter in enumerate(self._trained()):
            for name, value in self.optimizer.state.get(parameter, {}).items():
                if isinstance(value, torch.Tensor):
                    tensors[f"optimizer.{i}.{name}"] = value
        tensors["sums"] = sums
        scaler = self.accelerator.scaler
        self.run.check_ours()
        values = {
            "epoch": self.epoch,
            "step": self.step,
            "history": self.history,
            "unreadable": self.unreadable,
            "skipped": self.skipped,
            "scaler": None if scaler is None else scaler.state_dict(),
            "seconds": self.seconds + time.perf_counter() - self._started,
        }
        try:
            where = self.run.path, self.epoch, self.step
            checkpoint.save(*where, tensors, values, identity=self.run.id)
        except TrainingStopped as e:
            raise TrainingStopped(
                f"{e}; the last checkpoint is intact: when there is room again, {self.go_on}"
            ) from e

    def restore(self, saved: checkpoint.Checkpoint) -> None:
        """Go on from a checkpoint.

        Raises:
            ValueError: for one of another network.
        """
        parts: dict[str, dict[str, torch.Tensor]] = {}
        for name, tensor in saved.tensors.items():
            part, _, key = name.partition(".")
            parts.setdefault(part, {})[key] = tensor
        try:
            self.plain.load_state_dict(parts["network"])
            if self.average is not None:
                self.average.module.load_state_dict(parts["average"])
        except (RuntimeError, KeyError) as e:
            reason = " ".join(str(e).split())[:300]
            raise ValueError(f"{saved.path} is of another network: {reason}") from e
        state: dict[Any, dict[str, torch.Tensor]] = {}
        trained = self._trained()
        for key, value in parts.get("optimizer", {}).items():
            index, _, name = key.partition(".")
            parameter = trained[int(index)]
            like = torch.empty_like(parameter) if value.shape == parameter.shape else value
            state.setdefault(parameter, {})[name] = like.copy_(value)
        for parameter, tensors in state.items():
            self.optimizer.state[parameter].update(tensors)
        values = saved.values
        self.epoch, self.step = values["epoch"], values["step"]
        self.history, self.unreadable = values["history"], values["unreadable"]
        self.skipped, self.seconds = values["skipped"], values["seconds"]
        if self.rank == 0:  # the sum over the processes so far
            self.sums = parts["sums"][""].to(self.device)
        if values["scaler"] is not None and self.accelerator.scaler is not None:
            self.accelerator.scaler.load_state_dict(values["scaler"])

    def _trained(self) -> list[nn.Parameter]:
        return [p for group in self.optimizer.param_groups for p in group["params"]]

    # --- the whole

    def measured(self) -> nn.Module:
        """The network that is measured and kept: the moving average, if there is one."""
        return self.plain if self.average is None else self.average.module

    def measure(self, split: str) -> Any:
        def on_batch(batch: Any) -> None:
            self._note(batch.unreadable, split)
            if self.stop.signal is not None and self.world == 1:
                self._interrupted()

        with backend.using("unfused"):  # as `ab.evaluate` will measure it
            return self.task.measure(self.measured(), split, self.accelerator, on_batch)

    def fit(
        self, run: Run, progress: Any, label: str, *, lines: bool, go_on: str | None = None
    ) -> Any:
        """Train every epoch from where it stands, log each, and write the weights at the end.

        `lines` prints a lasting line per epoch beside the progress bar; `go_on` is the command that
        goes on after an interruption. Returns the last epoch's metrics on the test set.
        """
        self.run, self.console = run, progress.console
        self._started = time.perf_counter()
        self._saved = time.monotonic()
        command = f"accuracy-booster {self.config.command} --resume"
        go_on = go_on or f"{command} {shlex.quote(str(run.path))}"
        self.go_on = f"go on with: {go_on}"
        with (
            StopRequest(f"stopped on the last checkpoint; {self.go_on}") as self.stop,
            worker_faults(),
        ):
            self.forward = compiling.choose(self, run)
            return self._fit(progress, label, lines)

    def _fit(self, progress: Any, label: str, lines: bool) -> Any:
        config = self.config
        split = "validation" if "validation" in self.loaders else "test"
        epochs, steps = config.epochs, len(self.loaders["train"])
        done = self.epoch * steps + self.step
        task = progress.add_task(label, total=epochs * steps, completed=done, note="")
        self._note(dict(enumerate(self.data.unreadable)), "read into memory")
        metrics = None
        while self.epoch < epochs:
            start, first = time.perf_counter(), self.step
            self._epoch(lambda: progress.advance(task))
            self._set_rates(steps - 1)  # also where all steps were done before
            seconds = time.perf_counter() - start
            images = (self.step - first) * config.batch_size
            trained = self.task.trained(self._summed(self.sums).tolist())
            metrics = self.measure(split)
            self._bound(self._summed(self.sums.new_tensor([len(self.unreadable)])).item())
            row = {
                "epoch": self.epoch + 1,
                "lr": self.optimizer.param_groups[0]["lr"],
                **trained,
                "images_per_second": images / seconds if images else 0.0,
                **{f"{split}_{name}": v for name, v in self.task.curve(metrics).items()},
                "seconds": time.perf_counter() - start,
            }
            self.history.append(row)
            self.epoch, self.step, self.sums = self.epoch + 1, 0, self._no_sums()
            if self.accelerator.is_main_process:
                self.run.log(self.history)
            self.save()
            told = f"{split} {self.task.told(metrics)}"
            progress.update(task, note=told)
            if lines:
                self._say(
                    f"epoch {self.epoch}/{epochs}  loss {row['train_loss']:.3f}  {told}  "
                    f"{_rate(row['images_per_second'])} images/s"
                )
            if self.stop.signal is not None and self.world == 1:
                self._interrupted()
        progress.remove_task(task)
        return metrics if metrics and split == "test" else self.measure("test")

    def _epoch(self, on_step: Callable[[], None]) -> None:
        """The steps of an epoch that are left."""
        where = {"rank": self.rank, "world": self.world, "device": self.device}
        for batch in self.loaders["train"].batches(self.epoch, self.step, **where):
            self.train_step(batch)
            on_step()
            if self.asked:
                self._interrupted()
            if self.due:
                self.save()

    def _interrupted(self) -> None:
        """Save and leave."""
        self.save()
        self.accelerator.wait_for_everyone()
        number = self.stop.signal or 15
        raise TrainingInterrupted(
            f"stopped by signal {number} after step {self.step} of epoch {self.epoch + 1}, which "
            f"is saved; {self.go_on}",
            number,
        )


def _rate(images: float) -> str:
    """Images per second, with two digits where they are few."""
    return f"{images:.0f}" if images >= 10 else f"{images:.2g}"

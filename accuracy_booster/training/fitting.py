"""Train a network for all its epochs: steps, measurements, the log, checkpoints, interruptions."""

from __future__ import annotations

import shlex
import time
from typing import Any, NamedTuple

from torch import nn

from accuracy_booster.data.worker_errors import worker_faults
from accuracy_booster.signals import StopRequest
from accuracy_booster.training.compiling import choose_forward
from accuracy_booster.training.epoch_log import EpochLog
from accuracy_booster.training.keeping import Keeping
from accuracy_booster.training.repeatable import repeatable_convolutions
from accuracy_booster.training.run_directory import Run
from accuracy_booster.training.saving import Saving
from accuracy_booster.training.trainer import Trainer


class Fitted(NamedTuple):
    """What a training ends with.

    Attributes:
        test: the task's metrics of the test split.
        network: what was measured.
        epoch: how many epochs had trained it.
        stopped_early: whether the setting `patience` ended the training.
    """

    test: Any
    network: nn.Module
    epoch: int
    stopped_early: bool


def fit(
    trainer: Trainer,
    run: Run,
    progress: Any,
    label: str,
    *,
    lines: bool,
    resume_command: str | None = None,
) -> Fitted:
    """Train from where the trainer stands to the last epoch.

    Each epoch is measured on the validation split, or on the test split where there is none. Then
    it is logged and saved. With a validation split, `keeping` says whether the network of the last
    epoch or of the best one is measured on the test split, once.

    Args:
        run: the open run, whose files the first process writes.
        progress: the display.
        label: the training's name on it.
        lines: print a lasting line for each epoch.
        resume_command: the command that resumes the run, for the message of an interruption.

    Raises:
        Diverged: before a step whose loss or gradient is not finite.
        TrainingInterrupted: after a signal; a checkpoint was written.
        TrainingStopped: where training cannot go on; the last checkpoint is intact.
    """
    config, state = trainer.config, trainer.state
    own_command = f"accuracy-booster {config.command} --resume {shlex.quote(str(run.path))}"
    advice = f"go on with: {resume_command or own_command}"
    steps = len(trainer.loaders["train"])
    with (
        StopRequest(f"stopped on the last checkpoint; {advice}") as stop,
        worker_faults(),
        repeatable_convolutions(trainer.device),
    ):
        saving = Saving(trainer, run, stop, advice)
        if (step := trainer.step_to_compile()) is not None:
            trainer.step.forward = choose_forward(step, run, writes=trainer.main)
        with EpochLog(
            run if trainer.main else None,
            progress,
            label,
            steps=config.epochs * steps,
            done=state.epoch * steps + state.step,
            config=config,
            say=trainer.say if lines else None,
        ) as log:
            return _train_epochs(trainer, saving, log, Keeping(trainer, run))


def _train_epochs(trainer: Trainer, saving: Saving, log: EpochLog, keeping: Keeping) -> Fitted:
    task, state, metrics = trainer.task, trainer.state, None
    split = "validation" if "validation" in trainer.loaders else "test"
    state.unreadable.note(dict(enumerate(trainer.data.unreadable)), "read into memory")
    if log.tells and state.epoch == state.step == 0 and task.can_already(trainer.network):
        before = trainer.measure(split, saving.stop_if_alone)
        log.tell_before(split, task.curve(before), task.told(before))
    while state.epoch < trainer.config.epochs and not keeping.stops_early():
        start, first = time.perf_counter(), state.step
        _train_epoch(trainer, saving, log)
        # for the log, also where all steps of the epoch had been taken before this process began
        trainer.step.set_rates(len(trainer.loaders["train"]) - 1)
        seconds = time.perf_counter() - start
        images = (state.step - first) * trainer.config.batch_size
        trained = task.trained(trainer.summed(state.sums).tolist())
        metrics = trainer.measure(split, saving.stop_if_alone)
        unreadable = state.sums.new_tensor([len(state.unreadable)])
        state.unreadable.check(trainer.summed(unreadable).item())
        row = {
            "epoch": state.epoch + 1,
            "lr": state.optimizer.param_groups[0]["lr"],
            **trained,
            "images_per_second": images / seconds if images else 0.0,
            **{f"{split}_{name}": v for name, v in task.curve(metrics).items()},
            "seconds": time.perf_counter() - start,
        }
        state.history.append(row)
        state.next_epoch()
        log.write(state.history)
        saving.save()
        keeping.after_epoch()
        log.tell(row, f"{split} {task.told(metrics)}")
        saving.stop_if_alone()
    log.remove_bar()
    early = state.epoch < trainer.config.epochs
    if early:
        trainer.say(f"stopped early after epoch {state.epoch}: {keeping.told()}")
    network, epoch = keeping.network()
    if not metrics or split != "test":
        metrics = trainer.measure("test", saving.stop_if_alone, network)
    return Fitted(metrics, network, epoch, early)


def _train_epoch(trainer: Trainer, saving: Saving, log: EpochLog) -> None:
    """Take the steps of an epoch that are left."""
    state = trainer.state
    share = {"rank": trainer.rank, "world": trainer.processes, "device": trainer.device}
    for batch in trainer.loaders["train"].batches(state.epoch, state.step, **share):
        agreed = trainer.train_step(batch, saving.requests)
        log.step()
        if agreed.stop:
            saving.stop()
        if agreed.save:
            saving.save()

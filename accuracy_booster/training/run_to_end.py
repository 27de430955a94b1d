"""Perform a training: from a task whose data are open to a run that has ended."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch

from accuracy_booster.errors import Diverged
from accuracy_booster.training import checkpoint
from accuracy_booster.training.fitting import fit
from accuracy_booster.training.identity import rounds_differently
from accuracy_booster.training.keeping import Keeping, decide_keep
from accuracy_booster.training.lock import Lock, locked
from accuracy_booster.training.network_files import save_network
from accuracy_booster.training.run_config import RunConfig
from accuracy_booster.training.run_directory import Run
from accuracy_booster.training.run_files import WEIGHTS, check_output
from accuracy_booster.training.task import Task
from accuracy_booster.training.train_result import TrainResult, result_of
from accuracy_booster.training.trainer import Trainer, silent


def run_training(
    task: Task,
    progress: Any,
    label: str,
    *,
    lines: bool,
    run: Run | None = None,
    resume_command: str | None = None,
    about: str = "",
) -> TrainResult:
    """Train a new run, or resume one, and write its result.

    Args:
        progress: the display, which several trainings may share.
        label: the training's name on it.
        lines: print a lasting line for each epoch.
        run: the run to resume from its last good checkpoint; None begins a new one in the
            configuration's `output`.
        resume_command: the command that resumes it, for the message of an interruption.
        about: a line about the settings, which is printed once the run is there.

    Raises:
        ValueError: if the network does not fit the data, the directory cannot be written to, or the
            run cannot be resumed. A new run is not there then.
        Diverged, TrainingInterrupted, TrainingStopped: as for `fitting.fit`.
    """
    config, start = task.config, time.perf_counter()
    path = Path(str(config.output))
    known = None if run is None else run.info.get("keeps_head")
    keep = decide_keep(task) if run is None else None
    trainer = Trainer(task, say=progress.console.print, keeps_head=known)
    with contextlib.ExitStack() as stack:
        lock = None
        if trainer.main:
            lock = stack.enter_context(_locked_directory(path, config, new=run is None))
        if run is None:
            run = _begin(trainer, path, lock, keep)
        else:
            run.lock = lock
            _resume(trainer, run)
        if trainer.main:
            for line in filter(None, [about, *task.describe(trainer.network)]):
                trainer.say(line)
        trainer.accelerator.wait_for_everyone()
        try:
            fitted = fit(trainer, run, progress, label, lines=lines, resume_command=resume_command)
        except Diverged as e:
            if trainer.main:
                run.write_info({"diverged": str(e)})
            raise
        if trainer.main:
            state = trainer.state
            result = {
                "test": fitted.test.to_dict(),
                "kept_epoch": fitted.epoch,
                "stopped_early": fitted.stopped_early,
                "parameters": sum(p.numel() for p in trainer.network.parameters()),
                "seconds": state.seconds + time.perf_counter() - start,
                "unreadable": list(state.unreadable.reasons.values()),
            }
            run.write_history(state.history)  # again: the file may have been damaged since
            save_network(fitted.network, run, result, config)
            _write_report(trainer, run, fitted.test)
        trainer.accelerator.wait_for_everyone()
    if not trainer.main:
        history = trainer.state.history
        return TrainResult(path, config, fitted.test, 0, 0.0, history, kept_epoch=fitted.epoch)
    return result_of(type(task), run, config)


def _write_report(trainer: Trainer, run: Run, test: Any) -> None:
    """Write the page of a run that has ended. It can be made again by eval: an error is a line."""
    try:
        trainer.task.write_report(run, test)
    except Exception as e:  # the result is safe, and no error of a page may look like its loss
        trainer.say(f"the report of {run.path} was not written: {type(e).__name__}: {e}")


def check_length(run: Run, config: RunConfig, begun: int) -> None:
    """Raise ValueError if the run has begun more epochs than it is to have."""
    if config.epochs < begun:
        raise ValueError(
            f"epochs={config.epochs}, but the run in {run.path} has begun its epoch {begun}; give "
            f"--epochs {begun} or more"
        )


@contextlib.contextmanager
def _locked_directory(path: Path, config: RunConfig, *, new: bool) -> Iterator[Lock]:
    """Make a run's directory and hold its lock."""
    if new:
        check_output(path, config.overwrite)
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as e:
        raise ValueError(f"cannot write to {path}: {e.strerror or e}") from e
    with locked(path) as lock:
        yield lock


def _begin(trainer: Trainer, path: Path, lock: Lock | None, keep: str | None) -> Run:
    """Make the network of a new run ready, and the run itself in the process that has the lock."""
    trainer.check_network()
    trainer.initialise()
    if lock is None:
        return Run(path)
    device = _device_name(trainer)
    info = {**trainer.task.info(), "device": device, "keeps_head": trainer.keeps_head}
    info |= {} if keep is None else {"keep": keep}
    return Run.create(path, trainer.config, info, lock)


def _device_name(trainer: Trainer) -> str:
    """The name of the GPU's model, or "cpu"."""
    device = trainer.device
    return torch.cuda.get_device_name(device) if device.type == "cuda" else device.type


def _what_rounds_differently(trainer: Trainer, run: Run) -> str:
    """Why this process does not compute the same bits as the run did before, or ""."""
    differences = [rounds_differently(run.info.get("numerics") or {})]
    before, now = run.info.get("device"), _device_name(trainer)
    if before not in (None, now):
        differences.append(f"device {before} then and {now} now")
    return ", ".join(filter(None, differences))


def _resume(trainer: Trainer, run: Run) -> None:
    """Bring the trainer to the run's last good checkpoint, and note what changes from there on.

    Raises:
        ValueError: if a run that had ended has no checkpoint. It is not trained from the start
            again, since its weights would be lost.
    """
    config = trainer.config
    saved, problems = checkpoint.load(run.path, run.id)
    for problem in problems:
        trainer.say(problem)
    left = " left" if problems else ""
    where = saved.path if saved else f"the start: there is no good checkpoint{left}"
    trainer.say(f"going on from {where}")
    if other := _what_rounds_differently(trainer, run):
        trainer.say(f"the rest will not be bit for bit what it would have been: {other}")
    if saved is not None:
        trainer.restore(saved)
        check_length(run, config, trainer.state.epoch + (trainer.state.step > 0))
    elif (run.path / WEIGHTS).is_file():
        raise ValueError(
            f"the run in {run.path} cannot go on: it has no good checkpoint any more; start a new "
            f"run from its weights by --weights {run.path}"
        )
    else:
        trainer.initialise(say=silent)
    Keeping(trainer, run).recover()  # before the run's final weights are removed
    if trainer.main:
        run.write_changes(config, trainer.state.epoch)

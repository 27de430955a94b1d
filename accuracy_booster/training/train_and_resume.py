"""From a configuration, or a run's directory, to a run that has ended."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from accuracy_booster.errors import Diverged
from accuracy_booster.progress import bars, note
from accuracy_booster.training import checkpoint, engine
from accuracy_booster.training.classification import Classification
from accuracy_booster.training.config import TrainConfig
from accuracy_booster.training.identity import rounds_differently
from accuracy_booster.training.lock import Lock, locked
from accuracy_booster.training.presets import begun_dir, new_dir, resolve
from accuracy_booster.training.run_config import RunConfig
from accuracy_booster.training.run_directory import CONFIG, INFO, WEIGHTS, Run
from accuracy_booster.training.task import Task
from accuracy_booster.training.trainer import Trainer

RESUMABLE = ("bad_images", "checkpoint_minutes", "workers", "epochs")  # and the data's places


@dataclass(frozen=True)
class TrainResult:
    """What a run ended with: the metrics of the *last* epoch on the test set, never the best's."""

    output: Path
    config: Any  # the task's: `TrainConfig`
    test: Any  # the task's metrics: `Metrics`
    parameters: int
    seconds: float
    history: list[dict[str, float]] = field(repr=False)
    id: str | None = None  # of the run; None for one that an older version began
    weights_sha256: str | None = None  # of the tensors after the last epoch


def train(
    model: str | TrainConfig | None = None,
    *,
    resume: str | Path | None = None,
    **options: Any,
) -> TrainResult:
    """Train a network, boosted or plain, and write a run's directory.

    Args:
        model: the network's name, or a whole `TrainConfig`.
        resume: the directory of a run to go on with, with its own settings; one that has ended
            stays as it is, unless `epochs` makes it longer.
        options: any field of `TrainConfig`: `block`, `data`, `epochs`, `seed`, `output`, ...; with
            `resume` only `bad_images`, `checkpoint_minutes` and `workers`, which leave the result
            as it is; `data` and `data_dir`, the new place of the same data; and `epochs`. From
            there on the learning rate is what it is at that epoch of a training of the new length.

    Returns:
        The last epoch's metrics on the test set, the learning curve, and where the run is.

    Raises:
        ValueError: for anything in the configuration that is unknown, out of range, or does not
            fit the data. Nothing is written then.
        TrainingStopped: where training cannot go on; the last checkpoint is intact.
        TrainingInterrupted: after SIGTERM or SIGINT; it can be resumed.
    """
    if resume is not None:
        return go_on(Classification, resume, model is not None, **options)
    if model is None:
        raise ValueError("name a model, or a run to resume")
    if not isinstance(model, (str, TrainConfig)):
        raise ValueError(
            f"expected a model's name or a TrainConfig, got {type(model).__name__}; a run makes "
            "its network itself, so that it can make it again"
        )
    config = model.change(options) if isinstance(model, TrainConfig) else resolve(model, **options)
    return begin(Classification, config)


def begin(kind: type[Task], config: RunConfig) -> TrainResult:
    """A new run of a task, or what torchrun began of it before it started the command again."""
    place = kind.default_output(config)
    if engine.attempt() and (begun_dir(config, place) / CONFIG).exists():
        return resume_training(kind, begun_dir(config, place))
    kind.check(config)
    output = Path(config.output) if config.output else new_dir(place)
    Run.check(output, config.overwrite)
    task = kind.begin(config.change({"output": str(output)}))
    with bars() as progress:
        return run_training(task, progress, config.network, lines=True)


def go_on(kind: type[Task], path: str | Path, named: bool, **options: Any) -> TrainResult:
    """Go on with a run of a task, which may have been given a network's name by mistake.

    Raises:
        ValueError: for what may not change.
    """
    may = *RESUMABLE, *kind.config_type.places
    own = [kind.config_type.network_field] * named
    if given := own + [option for option in options if option not in may]:
        raise ValueError(
            f"resume goes on with the run's own settings; leave out {', '.join(given)} (only "
            f"{', '.join(may)} may change)"
        )
    return resume_training(kind, Path(path), **options)


def resume_training(kind: type[Task], path: Path, **options: Any) -> TrainResult:
    """Go on with a run, as `train(resume=path)`."""
    run, stored = Run.open(path, ended=False, kind=kind.config_type)
    config = stored.change({**options, "output": str(path)})
    state = run.state(stored.epochs, thorough=True)
    if set(config.places) & set(options):  # else an older run keeps its relative path
        config = kind.place(config)
    if state == "finished" and config.epochs == stored.epochs:
        return result_of(kind, run, config)
    if state not in ("finished", "stopped"):
        note(f"the run in {path} is damaged: {state}")
    else:
        _check_length(run, config, len(run.history()))
    task = kind.reopen(run, config)
    with bars() as progress:
        return run_training(task, progress, config.network, lines=True, run=run)


def _check_length(run: Run, config: RunConfig, begun: int) -> None:
    """Raise ValueError if the run has begun more epochs than it is to have."""
    if config.epochs < begun:
        raise ValueError(
            f"epochs={config.epochs}, but the run in {run.path} has begun its epoch {begun}; give "
            f"--epochs {begun} or more"
        )


def run_training(
    task: Task,
    progress: Any,
    label: str,
    *,
    lines: bool,
    run: Run | None = None,
    go_on: str | None = None,
) -> TrainResult:
    """`train` for a task whose data are open, on a shared display.

    With a `run`, that one goes on from its last good checkpoint. `go_on` is the command that an
    interruption names.
    """
    config = task.config
    start = time.perf_counter()
    trainer = Trainer(task, keeps_head=None if run is None else run.info.get("keeps_head"))
    path, main = Path(str(config.output)), trainer.accelerator.is_main_process
    say = progress.console.print
    with contextlib.ExitStack() as stack:
        lock = None
        if main:
            lock = stack.enter_context(_place(path, config, new=run is None))
        if run is not None:
            run.lock = lock
            for line in _go_on(run, trainer, config):
                if main:
                    say(line)
            if main:
                run.go_on(config, trainer.epoch)
        else:
            trainer.check_network()
            if config.weights is not None:
                line = trainer.start_from_weights()
                if main:
                    say(line)
            trainer.prepare(say if main else lambda line: None)
            if lock is not None:
                own = {"device": _device(trainer), "keeps_head": trainer.keeps_head}
                run = Run.create(path, config, {**task.info(), **own}, lock)
        if main:
            for line in task.describe(trainer.plain):
                say(line)
        trainer.accelerator.wait_for_everyone()
        if run is None:
            run = Run(path)
        try:
            test = trainer.fit(run, progress, label, lines=lines, go_on=go_on)
        except Diverged as e:
            if main:
                run.write_info({"diverged": str(e)})
            raise
        finally:
            run.close()
        if main:
            seconds = trainer.seconds + time.perf_counter() - start
            parameters = sum(p.numel() for p in trainer.plain.parameters())
            result = {
                **{"test": test.to_dict(), "parameters": parameters, "seconds": seconds},
                "unreadable": list(trainer.unreadable.values()),
            }
            run.write_rows(trainer.history)  # again: the file may have been damaged since
            engine.save_network(trainer.measured(), run, result, config.epochs)
        trainer.accelerator.wait_for_everyone()
    if not main:
        return TrainResult(path, config, test, 0, 0.0, trainer.history)
    return result_of(type(task), run, config)


@contextlib.contextmanager
def _place(path: Path, config: RunConfig, *, new: bool) -> Iterator[Lock]:
    """A run's directory, made and locked."""
    if new:
        Run.check(path, config.overwrite)
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as e:
        raise ValueError(f"cannot write to {path}: {e.strerror or e}") from e
    with locked(path) as lock:
        yield lock


def _go_on(run: Run, trainer: Trainer, config: RunConfig) -> Iterator[str]:
    """Bring a trainer to where its run's last good checkpoint is; what is to be said of it.

    Raises:
        ValueError: if the run has no checkpoint and is not to be trained from the start again.
    """
    saved, problems = checkpoint.load(run.path, run.id)
    yield from problems
    left = " left" if problems else ""
    where = saved.path if saved else f"the start: there is no good checkpoint{left}"
    yield f"going on from {where}"
    if other := rounds_differently(run.info.get("numerics") or {}):
        yield f"the rest will not be bit for bit what it would have been: {other}"
    if saved is not None:
        trainer.restore(saved)
        _check_length(run, config, trainer.epoch + (trainer.step > 0))
    elif (run.path / WEIGHTS).is_file():
        raise ValueError(
            f"the run in {run.path} cannot go on: it has no good checkpoint any more; start a new "
            f"run from its weights by --weights {run.path}"
        )
    else:
        if config.weights is not None:
            trainer.start_from_weights()
        trainer.prepare(lambda line: None)


def result_of(kind: type[Task], run: Run, config: RunConfig) -> TrainResult:
    """What a run that has ended came to.

    Raises:
        ValueError: if its files do not tell.
    """
    info = run.info
    try:
        test = kind.read_metrics(info["test"])
        parameters, seconds = int(info["parameters"]), float(info["seconds"])
    except (LookupError, TypeError, ValueError, AttributeError) as e:
        raise ValueError(
            f"the run in {run.path} is damaged: {INFO} does not hold its result ({e!r}); remove "
            f"{WEIGHTS} and go on with the run by --resume {run.path}"
        ) from e
    sha256 = (info.get("ended") or {}).get("sha256")
    return TrainResult(run.path, config, test, parameters, seconds, run.history(), run.id, sha256)


def _device(trainer: Trainer) -> str:
    device = trainer.device
    return torch.cuda.get_device_name(device) if device.type == "cuda" else device.type

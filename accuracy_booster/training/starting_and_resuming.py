"""Train: start a run from a configuration, or resume one from its directory."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal, overload

from accuracy_booster.progress import bars, note
from accuracy_booster.training.classification import Classification
from accuracy_booster.training.dry_run import DryRun, try_training
from accuracy_booster.training.optimizer import check_optimizer
from accuracy_booster.training.output_directory import begun_dir, new_dir
from accuracy_booster.training.presets import resolve, told
from accuracy_booster.training.processes import restart_count
from accuracy_booster.training.run_config import RunConfig
from accuracy_booster.training.run_directory import Run
from accuracy_booster.training.run_files import CONFIG, check_output
from accuracy_booster.training.run_to_end import check_length, run_training
from accuracy_booster.training.task import Task
from accuracy_booster.training.trackers import check_trackers
from accuracy_booster.training.train_config import TrainConfig
from accuracy_booster.training.train_result import TrainResult, result_of

# and the data's places
RESUMABLE = ("bad_images", "checkpoint_minutes", "workers", "log_with", "epochs")


@overload
def train(
    model: str | TrainConfig | None = None,
    *,
    resume: str | Path | None = None,
    dry_run: Literal[False] = False,
    **options: Any,
) -> TrainResult: ...


@overload
def train(
    model: str | TrainConfig | None = None, *, dry_run: Literal[True], **options: Any
) -> DryRun: ...


def train(
    model: str | TrainConfig | None = None,
    *,
    resume: str | Path | None = None,
    dry_run: bool = False,
    **options: Any,
) -> TrainResult | DryRun:
    """Train a network, boosted or plain, and write a run's directory.

    Args:
        model: the network's name, or a whole `TrainConfig`.
        resume: the directory of a run to go on with, with its own settings; one that has ended
            stays as it is, unless `epochs` makes it longer.
        dry_run: read the data, build the network and take a few steps, and return a `DryRun` that
            tells what the training would be; nothing is written.
        options: any field of `TrainConfig`: `block`, `data`, `epochs`, `seed`, `output`, ...; with
            `resume` only `bad_images`, `checkpoint_minutes`, `workers` and `log_with`, which leave
            the result as it is; `data` and `data_dir`, the new place of the same data; and
            `epochs`. From there on the learning rate is what it is at that epoch of a training of
            the new length.

    Returns:
        The last epoch's metrics on the test set, the learning curve, and where the run is.

    Raises:
        ValueError: for anything in the configuration that is unknown, out of range, or does not
            fit the data. Nothing is written then.
        TrainingStopped: where training cannot go on; the last checkpoint is intact.
        TrainingInterrupted: after SIGTERM or SIGINT; it can be resumed.
    """
    if resume is not None:
        if dry_run:
            raise ValueError("dry_run tries a new run; leave out resume")
        return resume_run(Classification, resume, network_named=model is not None, **options)
    if model is None:
        raise ValueError("name a model, or a run to resume")
    if not isinstance(model, (str, TrainConfig)):
        raise ValueError(
            f"expected a model's name or a TrainConfig, got {type(model).__name__}; a run makes "
            "its network itself, so that it can make it again"
        )
    if isinstance(model, TrainConfig):
        config = model.change(options)
    else:
        config = resolve(model, **options)
        if not options.get("preset"):
            note(told(config))
    return try_run(config) if dry_run else start_run(Classification, config)


def try_run(config: TrainConfig) -> DryRun:
    """What a run would be, as `train(dry_run=True)`; it ends with the errors of `start_run`."""
    return try_training(Classification.begin(_checked(Classification, config)))


def start_run(kind: type[Task], config: RunConfig) -> TrainResult:
    """Train a new run of a task.

    Where torchrun has started the command again, the run that it began before is resumed.
    """
    place = kind.default_output(config)
    if restart_count() and (begun_dir(config, place) / CONFIG).exists():
        return resume_run(kind, begun_dir(config, place))
    task = kind.begin(_checked(kind, config))
    with bars() as progress:
        return run_training(task, progress, config.network, lines=True)


def _checked(kind: type[Task], config: RunConfig) -> Any:
    """The configuration of a new run with its `output`, checked before the data are read."""
    kind.check(config)
    check_optimizer(config)
    check_trackers(config)
    output = Path(config.output) if config.output else new_dir(kind.default_output(config))
    check_output(output, config.overwrite)
    return config.change({"output": str(output)})


def resume_run(
    kind: type[Task], path: str | Path, *, network_named: bool = False, **options: Any
) -> TrainResult:
    """Resume a run of a task, as `train(resume=path, **options)`.

    Args:
        network_named: the caller was given a network's name too, which is an error.

    Raises:
        ValueError: for options that may not change while a run is resumed, or a run that cannot be
            resumed.
    """
    path = Path(path)
    may_change = *RESUMABLE, *kind.config_type.places
    own = [kind.config_type.network_field] * network_named
    if given := own + [option for option in options if option not in may_change]:
        raise ValueError(
            f"resume goes on with the run's own settings; leave out {', '.join(given)} (only "
            f"{', '.join(may_change)} may change)"
        )
    run, stored = Run.open(path, ended=False, kind=kind.config_type)
    config = stored.change({**options, "output": str(path)})
    state = run.state(stored.epochs, thorough=True)
    if set(config.places) & set(options):  # else a run of an older version keeps its relative path
        config = kind.place(config)
    if state == "finished" and config.epochs == stored.epochs:
        result = result_of(kind, run, config)
        if result.stopped_early:
            note(
                f"the run in {path} stopped early after epoch {result.epochs_done}, and there is "
                f"nothing to do; --epochs N, more than {stored.epochs}, trains it on"
            )
        return result
    if state not in ("finished", "stopped"):
        note(f"the run in {path} is damaged: {state}")
    else:
        check_length(run, config, len(run.history()))
    check_trackers(config)
    task = kind.reopen(run, config)
    with bars() as progress:
        return run_training(task, progress, config.network, lines=True, run=run)

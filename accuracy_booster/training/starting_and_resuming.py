"""Train: start a run from a configuration, or resume one from its directory."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal, overload

from torch import nn

from accuracy_booster.progress import bars, note
from accuracy_booster.training.classification import Classification
from accuracy_booster.training.dry_run import DryRun, try_training
from accuracy_booster.training.optimizer import check_optimizer
from accuracy_booster.training.output_directory import begun_dir, new_dir
from accuracy_booster.training.own_objects import NOTHING, OwnObjects, take_objects
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

Network = str | TrainConfig | nn.Module | Callable[..., nn.Module] | None


@overload
def train(
    model: Network = None,
    *,
    resume: str | Path | None = None,
    dry_run: Literal[False] = False,
    **options: Any,
) -> TrainResult: ...


@overload
def train(model: Network = None, *, dry_run: Literal[True], **options: Any) -> DryRun: ...


def train(
    model: Network = None,
    *,
    resume: str | Path | None = None,
    dry_run: bool = False,
    **options: Any,
) -> TrainResult | DryRun:
    """Train a network, boosted or plain, and write a run's directory.

    Args:
        model: the network's name, or a whole `TrainConfig`; or a network of your own: a module, a
            function or a class that makes one, without arguments or with `num_classes` and
            `in_chans`, or the import path of one of these ("package.module:function" or
            "file.py:function"). A module is copied, and its weights are where the training starts;
            a function's network is taken as fresh. A head for another number of classes is replaced
            by a new one, and gates that the network has already stay. To resume such a run, give
            the network again.
        resume: the directory of a run to go on with, with its own settings; one that has ended
            stays as it is, unless `epochs` makes it longer.
        dry_run: read the data, build the network and take a few steps, and return a `DryRun` that
            tells what the training would be; nothing is written.
        options: any field of `TrainConfig`: `block`, `data`, `epochs`, `seed`, `output`, ...
            `data` may also be a map-style data set (of torch, torchvision or Hugging Face), two of
            them (train, test), or a mapping {"train": ..., "test": ..., "validation": ...}. With
            `resume` only `bad_images`, `checkpoint_minutes`, `workers` and `log_with`, which leave
            the result as it is; `data` and `data_dir`, the new place of the same data; and
            `epochs`. From there on the learning rate is what it is at that epoch of a training of
            the new length.

    Returns:
        The metrics on the test set of the epoch that is kept (`keep`), the learning curve, and
        where the run is.

    Raises:
        ValueError: for anything in the configuration that is unknown, out of range, or does not
            fit the data. Nothing is written then.
        TrainingStopped: where training cannot go on; the last checkpoint is intact.
        TrainingInterrupted: after SIGTERM or SIGINT; it can be resumed.
    """
    named, options, own = take_objects(model, options)
    if resume is not None:
        if dry_run:
            raise ValueError("dry_run tries a new run; leave out resume")
        network_named = model is not None and own.network is None
        return resume_run(Classification, resume, own, network_named=network_named, **options)
    if named is None:
        raise ValueError("name a model, or a run to resume")
    if isinstance(named, TrainConfig):
        config, chosen = named.change(options), False
    else:
        config = resolve(named, trained=own.trained, **options)
        chosen = not options.get("preset")
    if not dry_run:
        return start_run(Classification, config, own, told if chosen else None)
    task = Classification.begin(_checked(Classification, config, own), own)
    if chosen:
        note(told(task.config))
    return try_training(task)


def start_run(
    kind: type[Task],
    config: RunConfig,
    own: OwnObjects = NOTHING,
    about: Callable[[Any], str] | None = None,
) -> TrainResult:
    """Train a new run of a task, with the network and the data that the caller gives as objects.

    Where torchrun has started the command again, the run that it began before is resumed.

    Args:
        about: gives a line about the completed configuration, which is printed once nothing is
            wrong with it.
    """
    place = kind.default_output(config)
    if restart_count() and (begun_dir(config, place) / CONFIG).exists():
        return resume_run(kind, begun_dir(config, place), own)
    task = kind.begin(_checked(kind, config, own), own)
    with bars() as progress:
        return run_training(
            *(task, progress, config.network),
            lines=True,
            about="" if about is None else about(task.config),
        )


def _checked(kind: type[Task], config: RunConfig, own: OwnObjects) -> Any:
    """The configuration of a new run with its `output`, checked before the data are read."""
    kind.check(config, own)
    check_optimizer(config)
    check_trackers(config)
    output = Path(config.output) if config.output else new_dir(kind.default_output(config))
    check_output(output, config.overwrite)
    return config.change({"output": str(output)})


def resume_run(
    kind: type[Task],
    path: str | Path,
    own: OwnObjects = NOTHING,
    *,
    network_named: bool = False,
    **options: Any,
) -> TrainResult:
    """Resume a run of a task, as `train(resume=path, **options)`.

    Args:
        own: the network and the data of the run, if the caller gave them as objects.
        network_named: the caller was given a network's name too, which is an error.

    Raises:
        ValueError: for options that may not change while a run is resumed, or a run that cannot be
            resumed.
    """
    path = Path(path)
    may_change = *RESUMABLE, *kind.config_type.places
    named = [kind.config_type.network_field] * network_named
    if given := named + [option for option in options if option not in may_change]:
        raise ValueError(
            f"resume goes on with the run's own settings; leave out {', '.join(given)} (only "
            f"{', '.join(may_change)} may change)"
        )
    run, stored = Run.open(path, ended=False, kind=kind.config_type)
    config = stored.change({**options, "output": str(path)})
    state = run.state(stored.epochs, thorough=True)
    if own.data is None and set(config.places) & set(options):
        # else a run of an older version keeps its relative path
        config = kind.place(config)
    if state == "finished" and config.epochs == stored.epochs:
        if own.data is not None or set(config.places) & set(options):
            kind.reopen(run, config, own)  # raises for other data, as where the run goes on
        result = result_of(kind, run, config)
        if result.stopped_early:
            note(
                f"the run in {path} stopped early after epoch {result.epochs_done}, and there is "
                f"nothing to do; --epochs N, more than {stored.epochs}, trains it on"
            )
        else:
            note(
                f"the run in {path} has ended, and there is nothing to do; --epochs N trains it on"
            )
        return result
    if state not in ("finished", "stopped"):
        note(f"the run in {path} is damaged: {state}")
    else:
        check_length(run, config, len(run.history()))
    check_trackers(config)
    task = kind.reopen(run, config, own)
    with bars() as progress:
        return run_training(task, progress, config.network, lines=True, run=run)

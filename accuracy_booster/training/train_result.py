"""`TrainResult`: what a run ended with, also read back from a run that ended before."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from accuracy_booster.training.run_config import RunConfig
from accuracy_booster.training.run_directory import Run
from accuracy_booster.training.run_files import INFO, WEIGHTS
from accuracy_booster.training.task import Task


@dataclass(frozen=True)
class TrainResult:
    """What a run ended with: the metrics on the test set, which did not choose the epoch.

    They are those of the last epoch or, if the run keeps the best one on its validation split, of
    that one.

    Attributes:
        output: the run's directory.
        config: the task's configuration, such as `TrainConfig`.
        test: the task's metrics, such as `Metrics`.
        parameters: how many the network has.
        seconds: how long the training took, over all processes that worked on it in turn.
        history: a row of numbers for each epoch.
        id: of the run; None for a run that an older version began.
        weights_sha256: of the tensors in model.safetensors.
        best_epoch: the best one on the validation split, counted from 1; None without such a split.
        kept_epoch: the one whose network was measured on the test set and saved.
        stopped_early: whether `patience` ended the training before its last epoch.
    """

    output: Path
    config: Any
    test: Any
    parameters: int
    seconds: float
    history: list[dict[str, float]] = field(repr=False)
    id: str | None = None
    weights_sha256: str | None = None
    best_epoch: int | None = None
    kept_epoch: int | None = None
    stopped_early: bool = False

    @property
    def epochs_done(self) -> int:
        """How many epochs were trained."""
        return len(self.history)


def kept_in_words(kept: int | None, best: int | None) -> str:
    """The end of a sentence: which epoch's network is kept, where a validation split could choose.

    Args:
        kept: the epoch whose network was measured and saved.
        best: the best one on the validation split; None without such a split.
    """
    if best is None:
        return ""
    if kept == best:
        return f", of which epoch {best} is kept, the best on the validation split"
    return f", the last of which is kept (the best on the validation split was {best})"


def place_of(run: Any) -> Any:
    """The directory of a run that is given as its `TrainResult`; anything else as it is."""
    return run.output if isinstance(run, TrainResult) else run


def result_of(kind: type[Task], run: Run, config: RunConfig) -> TrainResult:
    """The result of a run that has ended, from its files.

    Raises:
        ValueError: if run.json does not hold it.
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
    history = run.history()
    return TrainResult(
        *(run.path, config, test, parameters, seconds, history, run.id, sha256),
        best_epoch=(info.get("best") or {}).get("epoch"),
        kept_epoch=info.get("kept_epoch", len(history)),
        stopped_early=bool(info.get("stopped_early")),
    )

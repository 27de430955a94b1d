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
    """What a run ended with: the metrics of the *last* epoch on the test set, never the best's.

    Attributes:
        output: the run's directory.
        config: the task's configuration, such as `TrainConfig`.
        test: the task's metrics, such as `Metrics`.
        parameters: how many the network has.
        seconds: how long the training took, over all processes that worked on it in turn.
        history: a row of numbers for each epoch.
        id: of the run; None for a run that an older version began.
        weights_sha256: of the tensors after the last epoch.
    """

    output: Path
    config: Any
    test: Any
    parameters: int
    seconds: float
    history: list[dict[str, float]] = field(repr=False)
    id: str | None = None
    weights_sha256: str | None = None


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
    return TrainResult(run.path, config, test, parameters, seconds, run.history(), run.id, sha256)

"""Trackers of experiments, such as wandb and mlflow, which get the learning curve of a run.

accelerate's trackers (`accelerate.tracking`) know how each is called; TensorBoard is written by
`epoch_log`.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import asdict
from typing import Any

from accuracy_booster.errors import unknown
from accuracy_booster.files import hash_of
from accuracy_booster.progress import note
from accuracy_booster.training.learning_curve import Row
from accuracy_booster.training.run_config import RunConfig
from accuracy_booster.training.run_directory import Run

PROJECT = "accuracy-booster"  # wandb's project, mlflow's experiment
TENSORBOARD = "tensorboard"
IDS = "trackers"  # in run.json: what other programs call the run


def tracker_names(log_with: str) -> list[str]:
    """The names in the setting `log_with`, each once; none for "none"."""
    names = dict.fromkeys(name.strip() for name in log_with.split(","))
    return [name for name in names if name != "none"]


def check_trackers(config: RunConfig) -> None:
    """Raise ValueError for a tracker that is unknown, or whose package is not installed."""
    names = [name for name in tracker_names(config.log_with) if name != TENSORBOARD]
    if not names:
        return
    from accelerate.tracking import LOGGER_TYPE_TO_CLASS, get_available_trackers
    from accelerate.utils import LoggerType

    known = [str(name) for name in LOGGER_TYPE_TO_CLASS]
    for name in names:
        if name not in known:
            raise unknown("tracker", name, known, "log_with takes accelerate's trackers, or none")
        if name in LoggerType.list() and name not in map(str, get_available_trackers()):
            raise ValueError(
                f"log_with={config.log_with!r} needs a package that is not installed; "
                f"pip install {name}, or leave {name} out"
            )


class Tracker:
    """One tracker of a training, in its first process.

    What goes wrong in it while the training runs is told once and does not end the training.

    Args:
        name: as accelerate calls it.

    Raises:
        ValueError: if it cannot be started.
    """

    def __init__(self, name: str, run: Run, config: RunConfig):
        self._name, self._run = name, run
        known = (run.info.get(IDS) or {}).get(name)
        try:
            self._tracker = self._made(known)
            self._tracker.start()
            if known is None:  # mlflow refuses to log a setting twice
                values = {n: v for n, v in asdict(config).items() if v is not None}
                values = {n: str(v) if isinstance(v, tuple) else v for n, v in values.items()}
                self._tracker.store_init_configuration(values)
                self._note(_ids.get(name, _no_id)(self._tracker, run))
            elif name not in _ids:
                note(f"{name} gets a new run: it cannot go on with the one before")
        except Exception as e:  # each tracker has errors of its own
            reason = " ".join(str(e).split())[:300] or type(e).__name__
            raise ValueError(
                f"log_with: {name} cannot be started: {reason}; go on without it by --resume "
                f"{run.path} --log_with none"
            ) from e

    def write(self, row: Row) -> None:
        """Log the row of an epoch."""
        epoch = int(row["epoch"])
        values = {n.replace("_", "/", 1): v for n, v in row.items() if n != "epoch"}
        self._try(lambda: self._tracker.log(values, step=epoch))

    def close(self) -> None:
        """Let it write what is left."""
        self._try(lambda: self._tracker.finish())

    def _made(self, known: str | None) -> Any:
        from accelerate.tracking import LOGGER_TYPE_TO_CLASS

        kind, name, run = LOGGER_TYPE_TO_CLASS[self._name], self._run.path.resolve().name, self._run
        where = (str(run.path),) if kind.requires_logging_directory else ()
        more: dict[str, Any] = {}
        if self._name == "wandb":
            more = {"name": name, "id": _wandb_id(run), "resume": "allow"}
        elif self._name == "mlflow":
            more = {"run_name": name, "run_id": known}
        # as wandb itself takes it; accelerate does the same for mlflow's variable
        project = os.environ.get("WANDB_PROJECT", PROJECT) if self._name == "wandb" else PROJECT
        return kind(project, *where, **more)

    def _note(self, identity: str) -> None:
        self._run.write_info({IDS: {**(self._run.info.get(IDS) or {}), self._name: identity}})

    def _try(self, act: Callable[[], None]) -> None:
        if self._tracker is None:
            return
        try:
            act()
        except Exception as e:  # each tracker has errors of its own
            self._tracker = None
            reason = " ".join(str(e).split())[:300] or type(e).__name__
            note(f"{self._name} failed, and the training goes on without it: {reason}")


def _wandb_id(run: Run) -> str:
    """The run's id, or for a run of an older version, which has none, one from its directory."""
    return run.id or hash_of(str(run.path.resolve()))[:16]


def _no_id(tracker: Any, run: Run) -> str:
    return ""


# how a tracker that can go on with a run calls it
_ids: dict[str, Callable[[Any, Run], str]] = {
    "wandb": lambda tracker, run: _wandb_id(run),
    "mlflow": lambda tracker, run: str(tracker.tracker.info.run_id),
}

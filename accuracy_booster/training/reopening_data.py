"""Open the data of a run again, from any working directory, and check that they are the same."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from accuracy_booster.data import BUILT_IN, Data, sources
from accuracy_booster.data.dataset_source import is_dataset_name
from accuracy_booster.progress import note
from accuracy_booster.training.opening_data import open_data
from accuracy_booster.training.own_objects import NOTHING, OwnObjects
from accuracy_booster.training.run_config import RunConfig
from accuracy_booster.training.run_directory import Run
from accuracy_booster.training.run_files import CONFIG
from accuracy_booster.training.task import TrainingData
from accuracy_booster.training.train_config import TrainConfig


def reopen(run: Run, config: TrainConfig, own: OwnObjects = NOTHING) -> Data:
    """The data of a run that is resumed.

    Args:
        own: the data sets themselves, if the run was begun with objects.

    Raises:
        ValueError: if they are not where the configuration says, or are other data.
    """
    if own.data is None:
        stored = TrainConfig.from_yaml((run.path / CONFIG).read_text()).data
        if config.data == stored:
            check_place(run.path, stored)
        elif not sources.exists(config.data):
            raise ValueError(
                f"data={config.data!r} is no directory; give the place of the data of the run in "
                f"{run.path}, which were in {stored!r}"
            )
    data = open_data(config, own, classes=run.info["classes"], hold_out=run.hold_out)
    check_same(run, config, data)
    return data


def check_same(run: Run, config: RunConfig, data: TrainingData) -> None:
    """Raise ValueError if open data are not those that the run began with."""
    if changed := what_changed(run, config, data):
        raise ValueError(
            f"{changed}; give their place by --data, or train anew in another --output"
        )


def check_place(where: str | Path, data: str) -> None:
    """Check that there is something where the data of a run or a comparison were.

    Older versions stored a relative path. A line then says what it is taken to be.

    Args:
        where: the directory of the run or comparison, for messages.
        data: the name or path that is stored there.

    Raises:
        ValueError: if nothing is where the data were.
    """
    typed = Path(data).expanduser()
    relative = "" if typed.is_absolute() else ", a path relative to where it was started,"
    if not sources.exists(data):
        if is_dataset_name(data):
            raise ValueError(
                f"{where} was begun with data that were given as objects ({data}), which no file "
                "holds; give them again: data=(train, test) in Python, or other data by --data"
            )
        raise ValueError(
            f"{where} has its data in {data!r}{relative} and there is no such directory here; give "
            "their place by --data"
        )
    if relative and typed.is_dir() and data not in BUILT_IN:
        note(
            f"{where} has its data in {data!r}{relative} which is taken to be "
            f"{sources.full_name(data)}; an older version stored nothing to check that by"
        )


def what_changed(run: Run, config: RunConfig, data: TrainingData) -> str:
    """How the splits that are open differ from those that the run began with, or ""."""
    known: dict[str, Any] = run.info.get("data") or {}
    told = {split: data.difference(split, known[split]) for split in data.marks if split in known}
    found = [f"the {split} split has {changed}" for split, changed in told.items() if changed]
    if not found:
        return ""
    return f"{config.data} does not hold the data of the run in {run.path}: {', '.join(found)}"

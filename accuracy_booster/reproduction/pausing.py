"""Pausing a queue: a file named `paused` in its work folder, which it looks for."""

from __future__ import annotations

import time
from pathlib import Path

from accuracy_booster.errors import TrainingStopped
from accuracy_booster.reproduction.places import Places
from accuracy_booster.training.lock import is_locked

PAUSED = "paused"
POLL = 0.5  # seconds


def is_paused(places: Places) -> bool:
    return (places.work / PAUSED).exists()


def running(places: Places) -> Path | None:
    """The directory of the run that is being made, or None."""
    if not places.work.is_dir():
        return None
    folders = sorted(path for path in places.work.iterdir() if path.is_dir())
    return next((path for path in folders if is_locked(path)), None)


def pause(places: Places, patience: float = 60.0) -> str:
    """Stop the run under way, which saves where it is, and start no other until `go_on`.

    Returns:
        The name of the run that was stopped, or "" if none was under way.

    Raises:
        ValueError: if there is no queue's folder, or it cannot be written to.
        TrainingStopped: if the run has not ended within `patience` seconds; it will.
    """
    places = places.absolute()
    _check_queue(places)
    try:
        (places.work / PAUSED).touch()
    except OSError as e:
        raise ValueError(f"cannot write to {places.work}: {e.strerror or e}") from e
    first = running(places)
    deadline = time.monotonic() + patience
    while running(places) is not None:
        if time.monotonic() > deadline:
            raise TrainingStopped(
                f"{first} has not ended within {patience:.0f} s; no other run is started, and it "
                "ends when it has saved where it is"
            )
        time.sleep(POLL)
    return "" if first is None else first.name


def _check_queue(places: Places) -> None:
    if not places.work.is_dir():
        raise ValueError(
            f"there is no folder {places.work}; give --work, the folder of the `reproduce run`"
        )


def go_on(places: Places) -> bool:
    """End a pause; returns whether there was one.

    Raises:
        ValueError: if there is no queue's folder.
    """
    _check_queue(places)
    was = is_paused(places)
    (places.work / PAUSED).unlink(missing_ok=True)
    return was

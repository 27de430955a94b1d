"""Pausing and resuming the local queue, by a file named `paused` in its work folder."""

from __future__ import annotations

import time

from accuracy_booster.errors import TrainingStopped
from accuracy_booster.reproduction.places import Places
from accuracy_booster.reproduction.work_folder import running

PAUSED = "paused"
POLL = 0.5  # seconds between two looks at a file or a process


def is_paused(places: Places) -> bool:
    """Whether the queue is to start no run."""
    return (places.work / PAUSED).exists()


def pause(places: Places, patience: float = 60.0) -> str:
    """Stop the run under way, which saves a checkpoint, and start no other until `resume`.

    Args:
        patience: how many seconds to wait for the run to stop.

    Returns:
        The name of the run that was stopped, or "" if none was under way.

    Raises:
        ValueError: if there is no work folder, or it cannot be written to.
        TrainingStopped: if the run has not stopped within `patience` seconds. It still will.
    """
    places = places.absolute()
    _check_work_folder(places)
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


def resume(places: Places) -> bool:
    """End a pause; returns whether there was one.

    Raises:
        ValueError: if there is no work folder.
    """
    _check_work_folder(places)
    was_paused = is_paused(places)
    (places.work / PAUSED).unlink(missing_ok=True)
    return was_paused


def _check_work_folder(places: Places) -> None:
    if not places.work.is_dir():
        raise ValueError(
            f"there is no folder {places.work}; give --work, the folder of the `reproduce run`"
        )

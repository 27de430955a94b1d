"""The work folder: its lock, the run under way in it, and how far that run is.

The state of a reproduction is on the disk alone. A run has ended when its result is in the results'
folder, and has been begun when the work folder holds its directory.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from accuracy_booster.reproduction.places import Places
from accuracy_booster.training.lock import InUse, is_locked, locked
from accuracy_booster.training.run_directory import Run


def make_folders(places: Places) -> None:
    """Make the folders of the results and the runs, and write a file there as a test.

    Raises:
        ValueError: if that fails. So it is told before a run, and not after hours.
    """
    for folder in (places.results, places.work):
        try:
            folder.mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryFile(dir=folder) as file:
                file.write(b"results are written here")
        except OSError as e:
            raise ValueError(f"cannot write to {folder}: {e.strerror or e}") from e


@contextmanager
def alone(work: Path) -> Iterator[None]:
    """Hold the lock of the work folder, so that one process works in it.

    Raises:
        ValueError: if another process holds it.
    """
    try:
        with locked(work):
            yield
    except InUse:
        raise ValueError(
            f"another `reproduce run` works in {work}; one run at a time is made (see "
            "accuracy-booster reproduce status)"
        ) from None


def running(places: Places) -> Path | None:
    """The directory of the run that a process is making now, or None."""
    if not places.work.is_dir():
        return None
    folders = sorted(path for path in places.work.iterdir() if path.is_dir())
    return next((path for path in folders if is_locked(path)), None)


def epochs_ended(run: Path) -> int:
    """How many epochs of a run have ended, by its files; 0 while they cannot be read."""
    try:
        return len(Run(run).history())
    except ValueError:  # the file is being written, or is damaged
        return 0

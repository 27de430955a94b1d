"""What a training tells of its epochs: metrics.csv, TensorBoard, trackers, a bar, and lines."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from accuracy_booster.training.learning_curve import Row
from accuracy_booster.training.run_config import RunConfig
from accuracy_booster.training.run_directory import Run
from accuracy_booster.training.run_files import LOGS
from accuracy_booster.training.trackers import TENSORBOARD, Tracker, tracker_names


class TensorBoardLog:
    """The rows of a run's learning curve for TensorBoard, where that is installed."""

    def __init__(self, run: Run):
        self._run = run
        self._writer: Any = None  # made with the first row, whose epoch it must know

    def write(self, row: Row) -> None:
        """Write the row of an epoch."""
        epoch = int(row["epoch"])
        if self._writer is None and importlib.util.find_spec("tensorboard"):
            from torch.utils.tensorboard import SummaryWriter

            # rows that an interrupted process wrote after its checkpoint are written again
            self._writer = SummaryWriter(str(self._run.path / LOGS), purge_step=epoch)
            self._note_file()
        if self._writer is not None:
            for name, value in row.items():
                if name != "epoch":
                    self._writer.add_scalar(name.replace("_", "/", 1), value, epoch)

    def close(self) -> None:
        """Write what is left, and close the file."""
        if self._writer is not None:
            self._writer.close()

    def _note_file(self) -> None:
        """List the file in run.json: TensorBoard makes its name, and the run may remove it."""
        name = Path(self._writer.file_writer.event_writer._file_name).name
        known = self._run.info.get("files")
        if known is not None and f"{LOGS}/{name}" not in known:
            self._run.write_info({"files": [*known, f"{LOGS}/{name}"]})


class EpochLog:
    """The files, trackers and display of one process; used as a context, it closes them.

    Args:
        run: where the files are; None in all processes but the first.
        progress: the display, on which the training gets a bar.
        label: the bar's name.
        steps: of the whole training.
        done: how many of them are over.
        config: of the training.
        say: prints a lasting line for each epoch; None prints none.
    """

    def __init__(
        self,
        run: Run | None,
        progress: Any,
        label: str,
        *,
        steps: int,
        done: int,
        config: RunConfig,
        say: Callable[[str], None] | None,
    ):
        self._run, self._epochs, self._say = run, config.epochs, say
        self._logs: list[TensorBoardLog | Tracker] = []
        if run is not None:
            names = tracker_names(config.log_with)
            self._logs += [TensorBoardLog(run)] if TENSORBOARD in names else []
            self._logs += [Tracker(n, run, config) for n in names if n != TENSORBOARD]
        self._progress = progress
        self._bar = progress.add_task(label, total=steps, completed=done, note="")

    def __enter__(self) -> EpochLog:
        return self

    def __exit__(self, kind: object, error: object, traceback: object) -> None:
        for each in self._logs:
            each.close()

    @property
    def tells(self) -> bool:
        """Whether there are lasting lines."""
        return self._say is not None

    def tell_before(self, split: str, curve: Mapping[str, float], measured: str) -> None:
        """Show, and note in run.json, what the network could do before its first step."""
        if self._say is not None:
            self._say(f"before training: {split} {measured}")
        if self._run is not None:
            self._run.write_info({"before": {"split": split, **curve}})

    def step(self) -> None:
        """A step is over."""
        self._progress.advance(self._bar)

    def write(self, history: Sequence[Row]) -> None:
        """Write the files of a training, whose last row is new."""
        if self._run is not None:
            self._run.write_history(history)
            for each in self._logs:
                each.write(history[-1])

    def tell(self, row: Row, measured: str) -> None:
        """Show an epoch that is over.

        Args:
            measured: what was measured after it, for a person.
        """
        self._progress.update(self._bar, note=measured)
        if self._say is not None:
            self._say(
                f"epoch {row['epoch']}/{self._epochs}  loss {row['train_loss']:.3f}  {measured}  "
                f"{_rate(row['images_per_second'])} images/s"
            )

    def remove_bar(self) -> None:
        """Take the bar off the display: all epochs are over."""
        self._progress.remove_task(self._bar)


def _rate(images: float) -> str:
    """Images per second, with two digits where they are few."""
    return f"{images:.0f}" if images >= 10 else f"{images:.2g}"

"""When a training writes a checkpoint, and how it ends between two steps if it is told to."""

from __future__ import annotations

import time
from typing import Any, NoReturn

from accuracy_booster.errors import TrainingInterrupted, TrainingStopped
from accuracy_booster.signals import StopRequest
from accuracy_booster.training import checkpoint
from accuracy_booster.training.run_directory import Run
from accuracy_booster.training.trainer import Trainer
from accuracy_booster.training.training_step import Requests


class Saving:
    """Writes the checkpoints of a trainer into its run.

    Args:
        stop: hears the signals that end a training.
        advice: how to resume the run, for messages.
    """

    def __init__(self, trainer: Trainer, run: Run, stop: StopRequest, advice: str):
        self._trainer, self._run = trainer, run
        self._stop, self._advice = stop, advice
        self._started = time.perf_counter()
        self._saved = time.monotonic()

    def requests(self) -> Requests:
        """What this process asks for after the step that it is in."""
        late = time.monotonic() - self._saved >= 60 * self._trainer.config.checkpoint_minutes
        return Requests(stop=self._stop.signal is not None, save=late)

    def save(self) -> None:
        """Write a checkpoint; of several processes the first one does.

        Raises:
            TrainingStopped: if it cannot be written, or the run's directory was replaced.
        """
        self._saved = time.monotonic()
        state = self._trainer.state
        sums = self._trainer.summed(state.sums)
        if not self._trainer.main:
            return
        tensors = state.tensors(sums)
        self._run.check_ours()
        values = state.values(time.perf_counter() - self._started)
        place = self._run.path, state.epoch, state.step
        try:
            checkpoint.save(*place, tensors, values, identity=self._run.id)
        except TrainingStopped as e:
            raise TrainingStopped(
                f"{e}; the last checkpoint is intact: when there is room again, {self._advice}"
            ) from e

    def stop_if_alone(self, _: Any = None) -> None:
        """Stop if this process was told to and no other one trains along.

        Several processes agree on it in the next step: one that stopped alone would keep the
        others waiting.
        """
        if self._stop.signal is not None and self._trainer.processes == 1:
            self.stop()

    def stop(self) -> NoReturn:
        """Write a checkpoint and end the training.

        Raises:
            TrainingInterrupted: always.
        """
        self.save()
        self._trainer.accelerator.wait_for_everyone()
        state, number = self._trainer.state, self._stop.signal or 15
        raise TrainingInterrupted(
            f"stopped by signal {number} after step {state.step} of epoch {state.epoch + 1}, which "
            f"is saved; {self._advice}",
            number,
        )

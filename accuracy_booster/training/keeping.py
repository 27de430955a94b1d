"""Which epoch's network a run ends with: the last one, or the best one on the validation split.

The best epoch is a function of the learning curve, which every checkpoint holds. So a run that is
resumed knows it.
"""

from __future__ import annotations

import copy
from collections.abc import Container, Mapping, Sequence
from typing import Any

from torch import distributed, nn

from accuracy_booster.files import pack, unpack
from accuracy_booster.training.learning_curve import Row
from accuracy_booster.training.network_metadata import network_metadata
from accuracy_booster.training.run_directory import Run
from accuracy_booster.training.run_files import BEST, WEIGHTS
from accuracy_booster.training.task import Task
from accuracy_booster.training.trainer import Trainer


def decide_keep(task: Task) -> str | None:
    """ "last" or "best", for run.json; None for a task that has no such setting.

    Raises:
        ValueError: for settings that need a validation split, where there is none.
    """
    config: Any = task.config
    if not hasattr(config, "keep"):
        return None
    check_keep(config, task.data.loaders)
    return "best" if "validation" in task.data.loaders and config.keep != "last" else "last"


def check_keep(config: Any, splits: Container[str]) -> None:
    """Raise ValueError for settings that need a validation split, where `splits` has none."""
    if "validation" in splits:
        return
    remedy = (
        "there is none (data with train/ and val/ alone have val/ as the test split); hold one out "
        "with --validation 0.1"
    )
    if config.validation:
        remedy = (
            "the data have no test split, so the share that "
            f"validation={config.validation:g} holds out is the test split; give data with a test "
            "split (a folder test/ or val/)"
        )
    for name, wanted in (("keep", config.keep == "best"), ("patience", config.patience > 0)):
        if wanted:
            raise ValueError(
                f"{name}={getattr(config, name)} needs a validation split beside the test split, "
                f"and {remedy}"
            )


def best_row(task: Task, rows: Sequence[Row]) -> Row | None:
    """The row of the best epoch on the validation split, the first one of equals."""
    column = f"validation_{task.best_by}"
    measured = [row for row in rows if column in row]
    return max(measured, key=lambda row: row[column], default=None)


class Keeping:
    """The best epoch of a run in training: its file, and when patience with it is over.

    Attributes:
        keep: "last" or "best"; None for a run of an older version, which keeps the last.
        since: how many epochs were done when the run was made longer; patience begins anew there.
    """

    def __init__(self, trainer: Trainer, run: Run):
        self._trainer, self._run = trainer, run
        lengthened = run.info.get("lengthened") or [{"at": 0}]
        decided = [run.info.get("keep"), lengthened[-1]["at"]]
        if trainer.processes > 1:  # the first process alone has read, or written, run.json
            from accelerate.utils import broadcast_object_list

            broadcast_object_list(decided)
        self.keep, self.since = decided

    @property
    def best(self) -> Row | None:
        """The row of the best epoch so far; None where none is looked for."""
        history = self._trainer.state.history
        return None if self.keep is None else best_row(self._trainer.task, history)

    def stops_early(self) -> bool:
        """Whether the setting `patience` ends the training before its last epoch."""
        patience, best = getattr(self._trainer.config, "patience", 0), self.best
        if not patience or best is None:
            return False
        return self._trainer.state.epoch - max(int(best["epoch"]), self.since) >= patience

    def told(self) -> str:
        """In words, why `patience` is over."""
        best, patience = self.best, getattr(self._trainer.config, "patience", 0)
        assert best is not None
        plural = "s" if patience > 1 else ""
        value = best[f"validation_{self._trainer.task.best_by}"]
        return (
            f"in {patience} epoch{plural} nothing was better on the validation split than epoch "
            f"{best['epoch']} ({value:.2f} %)"
        )

    def after_epoch(self) -> None:
        """Write the network of an epoch that is over, if it is the best so far.

        The checkpoint of the epoch is there already. So if the process is killed in between,
        `recover` makes the file from it.
        """
        best, state = self.best, self._trainer.state
        if self._trainer.main and best is not None and best["epoch"] == state.epoch:
            self._write(state.kept_network.state_dict(), best)

    def recover(self) -> None:
        """Write the best network again, if the file of a resumed run is missing or damaged."""
        best, state = self.best, self._trainer.state
        if not self._trainer.main or best is None or not (why := self._why_not(best)):
            return
        if best["epoch"] == state.epoch and state.step == 0:
            self._write(state.kept_network.state_dict(), best)
        elif self._run.info.get("kept_epoch") == best["epoch"] and (tensors := self._final()):
            self._write(tensors, best)
        else:
            self._trainer.say(f"the network of the best epoch {best['epoch']} is lost: {why}")

    def network(self) -> tuple[nn.Module, int]:
        """The network that the run ends with, and the epoch after which it was like that.

        Another network than the trainer's is a copy: a checkpoint may still be written.
        """
        trainer, best, last = self._trainer, self.best, self._trainer.state.epoch
        if self.keep != "best" or best is None or best["epoch"] == last:
            return trainer.state.kept_network, last
        found = [self._why_not(best) if trainer.main else ""]
        if trainer.processes > 1:
            from accelerate.utils import broadcast_object_list

            broadcast_object_list(found)
        if found[0]:
            trainer.say(f"the network of the last epoch is kept, not the best one: {found[0]}")
            return trainer.state.kept_network, last
        network = copy.deepcopy(trainer.state.kept_network)
        if trainer.main:
            network.load_state_dict(unpack(self._run.path / BEST).tensors)
        if trainer.processes > 1:
            for tensor in network.state_dict().values():
                distributed.broadcast(tensor, src=0)
        return network, int(best["epoch"])

    def _write(self, tensors: Mapping[str, Any], best: Row) -> None:
        epoch, metric = int(best["epoch"]), f"validation_{self._trainer.task.best_by}"
        values = {"fingerprint": self._run.info.get("fingerprint"), "epoch": epoch}
        metadata = network_metadata(self._trainer.config, self._run.info)
        content, sha256 = pack(tensors, values, metadata)
        about = {"epoch": epoch, "metric": metric, "value": best[metric], "sha256": sha256}
        self._run.write_info({"best": {**about, "bytes": len(content)}})
        self._run.write(BEST, content)

    def _why_not(self, best: Row) -> str:
        """Why the file does not hold the network of the best epoch, or ""."""
        path, known = self._run.path / BEST, self._run.info.get("best") or {}
        try:
            found = unpack(path)
        except (OSError, ValueError) as e:
            return " ".join(str(e).split())
        if found.sha256 != known.get("sha256") or found.values.get("epoch") != best["epoch"]:
            return f"{path} is of another run or epoch"
        return ""

    def _final(self) -> dict[str, Any] | None:
        """The tensors that the run ended with before, if they are there and good."""
        if not (self._run.path / WEIGHTS).is_file():
            return None
        try:
            return self._run.weights()
        except ValueError:
            return None

"""`Run`: one run's directory, created, opened, checked, and written as the training goes.

`training.run_files` lists what is in it.
"""

from __future__ import annotations

import hashlib
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, overload

from accuracy_booster.blocks import VERSION, as_recorded
from accuracy_booster.errors import shown
from accuracy_booster.files import read_json, unpack, write, write_json
from accuracy_booster.training.identity import fingerprint, new_id, numerics, versions
from accuracy_booster.training.learning_curve import Row, read_csv, to_csv
from accuracy_booster.training.lock import Lock
from accuracy_booster.training.run_config import Config, RunConfig
from accuracy_booster.training.run_files import (
    BLOCKS,
    CONFIG,
    INFO,
    METRICS,
    REPORT,
    WEIGHTS,
    check_output,
    is_run,
    remove_run,
    resume_command,
)
from accuracy_booster.training.train_config import TrainConfig

# for the message that a run is of another task: the commands that take such a run
TAKEN_BY = {
    "classification": "train --resume, eval, predict, inspect and detect train --backbone take it",
    "detection": "detect train --resume, detect eval and detect predict take it",
}


class OtherTask(ValueError):
    """A run is not of the task that was asked for."""


class Run:
    """The files of one run.

    Attributes:
        path: the directory.
        lock: the directory's lock, where this process trains; writing checks that it still holds.
        info: what run.json holds.
    """

    def __init__(self, path: Path, lock: Lock | None = None):
        self.path, self.lock = path, lock
        self.info: dict[str, Any] = {}

    # --- created and opened

    @classmethod
    def create(cls, path: Path, config: RunConfig, info: Mapping[str, Any], lock: Lock) -> Run:
        """A new run in `path`, in place of the one there if `config.overwrite` is on.

        Raises:
            ValueError: if there is one already, or other files, or it cannot be written.
        """
        check_output(path, config.overwrite)
        run = cls(path, lock)
        try:
            if is_run(path):
                # config.yaml stays until it is replaced, so that there is a run at every instant
                remove_run(path, whole=False)
        except OSError as e:
            raise ValueError(f"cannot write to {path}: {e.strerror or e}") from e
        run.info = {"id": new_id(), "task": config.task, "fingerprint": fingerprint(config)}
        about = {"command": sys.argv, "versions": versions(), BLOCKS: VERSION, "files": []}
        run.write_info({**info, **about, "numerics": numerics()})
        run.write(CONFIG, config.to_yaml().encode())  # last: from here on there is a run
        return run

    @overload
    @classmethod
    def open(cls, path: Path, *, ended: bool = True) -> tuple[Run, TrainConfig]: ...

    @overload
    @classmethod
    def open(cls, path: Path, *, ended: bool = True, kind: type[Config]) -> tuple[Run, Config]: ...

    @classmethod
    def open(
        cls, path: Path, *, ended: bool = True, kind: type[RunConfig] = TrainConfig
    ) -> tuple[Run, Any]:
        """The run in a directory, and its configuration.

        Args:
            ended: refuse a run that has not ended, or whose weights are missing or cut off.
            kind: the type of the configuration, which says the task that the run must be of.

        Raises:
            ValueError: if there is none in `path`, it is damaged, of another task, or it has not
                ended.
        """
        if not (path / CONFIG).is_file():
            raise ValueError(f"{path} holds no run (no {CONFIG}); give the --output of a training")
        if ended and not (path / WEIGHTS).is_file():
            raise ValueError(
                f"the run in {path} has not ended: it has no {WEIGHTS}; go on with: "
                f"{resume_command(path)}"
            )
        run = cls(path)
        try:
            config = run._read(kind)
        except OtherTask:
            raise
        except (OSError, ValueError, TypeError) as e:
            raise ValueError(f"the run in {path} cannot be read: {e}") from e
        if ended and (state := run.state(config.epochs)) != "finished":
            raise ValueError(
                f"the run in {path} has not ended: it is to be trained for {config.epochs} epochs; "
                f"go on with: {resume_command(path)}"
                if state == "stopped"
                else f"the run in {path} is damaged: {state}; {resume_command(path)} writes it "
                "anew from its last checkpoint"
            )
        return run, config

    def _read(self, kind: type[RunConfig]) -> RunConfig:
        """Read run.json into `info`; returns the configuration."""
        self.info = read_json(self.path / INFO)
        if (task := self.info.get("task", TrainConfig.task)) != kind.task:
            taken = TAKEN_BY.get(str(task), "another version of this package made it")
            raise OtherTask(
                f"{self.path} holds a run of {shown(task)}, not of {kind.task}; {taken}"
            )
        config = kind.from_yaml((self.path / CONFIG).read_text())
        if not isinstance(self.info.get("classes"), list):
            raise ValueError(f"{INFO} names no classes")
        if self.info.get("fingerprint", fingerprint(config)) != fingerprint(config):
            raise ValueError(
                f"{CONFIG} is of another network or of other settings than those that the run "
                "was begun with; put it back as it was, or train anew in another --output"
            )
        return with_current_block(config, self.info)

    # --- what is in it

    def state(self, epochs: int, *, thorough: bool = False) -> str:
        """ "finished", "stopped", or what is wrong with the files of a run that had ended.

        Args:
            epochs: how many the run is to have.
            thorough: also read the weights and metrics.csv, and check their hashes.

        Raises:
            ValueError: if metrics.csv of a run of an older version is damaged.
        """
        weights, known = self.path / WEIGHTS, self.info.get("ended")
        if not weights.is_file():
            return "stopped"
        if not isinstance(known, Mapping):  # of an older version
            try:
                done = len(self.history())
            except ValueError as e:
                raise ValueError(f"the run in {self.path} cannot be read: {e}") from e
            return "finished" if done >= epochs or not (self.path / METRICS).exists() else "stopped"
        if known.get("epochs", 0) < epochs:
            return "stopped"
        size = weights.stat().st_size
        if size != known.get("bytes"):
            return f"{WEIGHTS} has {size:,} bytes and was written with {known.get('bytes')}"
        if thorough:
            try:
                self.weights()
            except ValueError as e:
                return str(e)
            if self._metrics_hash() not in (None, known.get("metrics")):
                return f"{METRICS} is damaged"
        return "finished"

    @property
    def id(self) -> str | None:
        """The run's id; None for a run that an older version began."""
        return self.info.get("id")

    @property
    def hold_out(self) -> str:
        """How the validation images were drawn: by their "names", or by their "rows" (older)."""
        return self.info.get("hold_out") or "rows"

    def weights(self) -> dict[str, Any]:
        """The tensors that the run ended with.

        Raises:
            ValueError: if the file is damaged, or another run's.
        """
        packed = unpack(self.path / WEIGHTS)
        known = self.info.get("ended") or {}
        if self.id is None or not known:
            return packed.tensors
        if packed.sha256 is None or packed.sha256 != known.get("sha256"):
            raise ValueError(
                f"{self.path / WEIGHTS} is of another run: its hash is not the one in {INFO}"
            )
        return packed.tensors

    def history(self) -> list[dict[str, float]]:
        """The rows of metrics.csv.

        Raises:
            ValueError: if it is damaged.
        """
        return read_csv(self.path / METRICS)

    def _metrics_hash(self) -> str | None:
        path = self.path / METRICS
        return hashlib.sha256(path.read_bytes()).hexdigest() if path.exists() else None

    # --- written

    def check_ours(self) -> None:
        """Raise TrainingStopped if the directory is no longer the one that this process locked."""
        if self.lock is not None:
            self.lock.check()

    def write(self, name: str, content: bytes) -> None:
        """Write one of the run's files.

        Raises:
            CannotWrite: if there is no room.
            TrainingStopped: if the directory was removed or replaced.
        """
        self.check_ours()
        write(self.path / name, content, make_folder=False)

    def write_info(self, more: Mapping[str, Any]) -> None:
        """Add values to `info` and write run.json; errors as in `write`."""
        self.info.update(more)
        self.check_ours()
        write_json(self.path / INFO, self.info, make_folder=False)

    def write_history(self, rows: Sequence[Row]) -> None:
        """Write metrics.csv; errors as in `write`."""
        self.write(METRICS, to_csv(rows))

    def end(self, result: Mapping[str, Any], epochs: int, content: bytes, sha256: str) -> None:
        """Write what the run ended with: the result into run.json, and then the weights.

        Args:
            content: the packed weights.
            sha256: the hash that they hold.
        """
        known: dict[str, Any] = {"epochs": epochs, "sha256": sha256, "bytes": len(content)}
        known["metrics"] = self._metrics_hash()
        self.info.pop("diverged", None)
        self.write_info({**result, "ended": known})
        self.write(WEIGHTS, content)
        self.check_ours()

    def write_changes(self, config: RunConfig, epoch: int) -> None:
        """Write what changes as the run is resumed: its number of epochs, and its data's place.

        Whenever it is killed, the run has either ended as before, or goes on with the new number.

        Args:
            epoch: how many epochs are done.
        """
        stored = type(config).from_yaml((self.path / CONFIG).read_text())
        new = stored.change({name: getattr(config, name) for name in ("epochs", *config.places)})
        if new.epochs != stored.epochs:
            rows = list(self.info.get("lengthened", []))
            if rows and rows[-1]["to"] != stored.epochs:
                rows.pop()  # written by a process that was killed before it wrote config.yaml
            rows.append({"from": stored.epochs, "to": new.epochs, "at": epoch})
            self.write_info({"lengthened": rows})
        if new != stored:
            self.write(CONFIG, new.to_yaml().encode())
        self.check_ours()
        (self.path / REPORT).unlink(missing_ok=True)  # of the result that it had before
        (self.path / WEIGHTS).unlink(missing_ok=True)  # last: now the run has not ended


def with_current_block(config: Config, info: Mapping[str, Any]) -> Config:
    """A run's configuration, with its block as the current grammar writes it.

    Args:
        info: what run.json holds. Runs from before version 0.2 of this package do not note the
            grammar's version there; they were written in version 1.

    Raises:
        ValueError: for a version of the grammar that this package does not know.
    """
    return config.change({"block": as_recorded(config.block, info.get(BLOCKS, 1))})

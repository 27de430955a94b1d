"""A run's directory: configuration, metrics and final weights.

config.yaml        the resolved configuration: `train --config` repeats the run
run.json           the run's id, fingerprints of its settings and data, the classes, versions and
                   command, the version of the grammar that the block is written in, and what other
                   files the run has; after the end also the result, with the hashes of its files
metrics.csv        a row per epoch
tensorboard/       the same, where tensorboard is installed
checkpoints/       where it can go on (`training.checkpoint`)
model.safetensors  the weights after the last epoch; it is there when the run has ended
.lock              held by the process that trains here
"""

from __future__ import annotations

import contextlib
import csv
import hashlib
import importlib.util
import io
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, overload

from accuracy_booster.blocks import VERSION, as_recorded
from accuracy_booster.errors import shown
from accuracy_booster.files import (
    check_folder,
    check_no_others,
    partial_name,
    read_json,
    unpack,
    write,
    write_json,
)
from accuracy_booster.training.checkpoint import FOLDER, own_files
from accuracy_booster.training.config import TrainConfig
from accuracy_booster.training.identity import fingerprint, new_id, numerics
from accuracy_booster.training.lock import LOCK, Lock
from accuracy_booster.training.run_config import Config, RunConfig

BLOCKS = "block_version"  # in run.json: which grammar config.yaml's block is written in
CONFIG, INFO, METRICS, WEIGHTS = "config.yaml", "run.json", "metrics.csv", "model.safetensors"
LOGS = "tensorboard"
# what takes the runs of a task
TAKEN_BY = {
    "classification": "train --resume, eval, inspect and detect train --backbone take it",
    "detection": "detect train --resume, detect eval and detect predict take it",
}


class OtherTask(ValueError):
    """A run is not of the task that was asked for."""


class Run:
    """The files of one run, written as it goes."""

    def __init__(self, path: Path, lock: Lock | None = None):
        self.path, self.lock = path, lock
        self.info: dict[str, Any] = {}
        self._writer: Any = None

    # --- where a run may be

    @classmethod
    def check(cls, path: Path, overwrite: bool) -> None:
        """Raise ValueError where no run may be written: over another one, or among other files."""
        check_folder(path)
        if not path.is_dir():
            return
        if cls.is_run(path):
            if overwrite:
                return
            ended = (path / WEIGHTS).exists()
            state = "a run" if ended else "a run that has not ended"
            more = "" if ended else f"; go on with it by --resume {path}"
            raise ValueError(
                f"{path} already holds {state}; choose another --output, or --overwrite{more}"
            )
        # what a run that was killed as it began has left
        left = {LOCK, *map(partial_name, (INFO, CONFIG))}
        left |= {INFO} if _info_of(path) else set()
        check_no_others(path, left, "run")

    @staticmethod
    def is_run(path: Path) -> bool:
        """Whether a directory holds a run, and not another program's config.yaml."""
        if not (path / CONFIG).is_file():
            return False
        if _info_of(path):
            return True
        try:
            TrainConfig.from_yaml((path / CONFIG).read_text())
        except (OSError, ValueError):
            return False
        return True

    @classmethod
    def remove(cls, path: Path, *, whole: bool = True) -> None:
        """Remove what the run in a directory has written, and nothing else.

        Args:
            whole: its configuration and run.json too, which tell that there is a run.
        """
        info = _info_of(path)
        logs = info.get("files")
        if logs is None:  # a run of an older version lists none
            logs = [f"{LOGS}/{file.name}" for file in (path / LOGS).glob("events.out.tfevents.*")]
        own = own_files(path, info.get("id"))
        own += [path / name for name in logs if _is_log(name)]
        own += [path / name for name in (WEIGHTS, METRICS, *((INFO, CONFIG) if whole else ()))]
        for file in own:
            file.unlink(missing_ok=True)
            file.with_name(partial_name(file.name)).unlink(missing_ok=True)
        for folder in (LOGS, FOLDER):
            with contextlib.suppress(OSError):  # not empty: somebody else's files stay
                (path / folder).rmdir()

    # --- made, found, gone on with

    @classmethod
    def create(cls, path: Path, config: RunConfig, info: Mapping[str, Any], lock: Lock) -> Run:
        """A new run in `path`, in place of the one there if `config.overwrite` is on.

        Raises:
            ValueError: if there is one already, or other files, or it cannot be written.
        """
        cls.check(path, config.overwrite)
        run = cls(path, lock)
        try:
            if cls.is_run(path):
                # its configuration is replaced, so that there is a run at every instant
                cls.remove(path, whole=False)
        except OSError as e:
            raise ValueError(f"cannot write to {path}: {e.strerror or e}") from e
        run.info = {"id": new_id(), "task": config.task, "fingerprint": fingerprint(config)}
        about = {"command": sys.argv, "versions": _versions(), BLOCKS: VERSION, "files": []}
        run.write_info({**info, **about, "numerics": numerics()})
        run.write(CONFIG, config.to_yaml().encode())  # last: now there is a run
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
        """A run, which must have ended unless told otherwise, and its configuration.

        Args:
            kind: the configurations of the task that the run must be of.

        Raises:
            ValueError: if there is none in `path`, it is damaged, of another task, or it has not
                ended.
        """
        if not (path / CONFIG).is_file():
            raise ValueError(f"{path} holds no run (no {CONFIG}); give the --output of a training")
        if ended and not (path / WEIGHTS).is_file():
            raise ValueError(
                f"the run in {path} has not ended: it has no {WEIGHTS}; go on with it by "
                f"--resume {path}"
            )
        run = cls(path)
        try:
            run.info = read_json(path / INFO)
            if (task := run.info.get("task", TrainConfig.task)) != kind.task:
                taken = TAKEN_BY.get(str(task), "another version of this package made it")
                raise OtherTask(f"{path} holds a run of {shown(task)}, not of {kind.task}; {taken}")
            config = kind.from_yaml((path / CONFIG).read_text())
            if not isinstance(run.info.get("classes"), list):
                raise ValueError(f"{INFO} names no classes")
            if run.info.get("fingerprint", fingerprint(config)) != fingerprint(config):
                raise ValueError(
                    f"{CONFIG} is of another network or of other settings than those that the run "
                    "was begun with; put it back as it was, or train anew in another --output"
                )
            config = in_todays_words(config, run.info)
            state = run.state(config.epochs)
        except OtherTask:
            raise
        except (OSError, ValueError, TypeError) as e:
            raise ValueError(f"the run in {path} cannot be read: {e}") from e
        if ended and state != "finished":
            raise ValueError(
                f"the run in {path} has not ended: it is to be trained for {config.epochs} epochs; "
                f"go on with it by --resume {path}"
                if state == "stopped"
                else f"the run in {path} is damaged: {state}; --resume {path} writes it anew from "
                "its last checkpoint"
            )
        return run, config

    def state(self, epochs: int, *, thorough: bool = False) -> str:
        """ "finished", "stopped", or what is wrong with the files of a run that had ended.

        Args:
            epochs: how many the run is to have.
            thorough: read the weights, and check their hash.
        """
        weights, known = self.path / WEIGHTS, self.info.get("ended")
        if not weights.is_file():
            return "stopped"
        if not isinstance(known, Mapping):  # of an older version
            done = len(self.history())
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
        """How the share for validation was drawn: runs of older versions drew it by rows."""
        return self.info.get("hold_out") or "rows"

    def weights(self) -> dict[str, Any]:
        """The tensors after the last epoch.

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
        self.info.update(more)
        self.check_ours()
        write_json(self.path / INFO, self.info, make_folder=False)

    def end(self, result: Mapping[str, Any], epochs: int, content: bytes, sha256: str) -> None:
        """Write what the run ended with: first the result, last the packed weights."""
        known: dict[str, Any] = {"epochs": epochs, "sha256": sha256, "bytes": len(content)}
        known["metrics"] = self._metrics_hash()
        self.info.pop("diverged", None)
        self.write_info({**result, "ended": known})
        self.write(WEIGHTS, content)
        self.check_ours()

    def go_on(self, config: RunConfig, epoch: int) -> None:
        """Note what changes as the run goes on after so many epochs: its length, its data's place.

        Killed at any instant, the run has either ended as before, or goes on with the new length.
        """
        stored = type(config).from_yaml((self.path / CONFIG).read_text())
        new = stored.change({name: getattr(config, name) for name in ("epochs", *config.places)})
        if new.epochs != stored.epochs:
            rows = list(self.info.get("lengthened", []))
            if rows and rows[-1]["to"] != stored.epochs:
                rows.pop()  # of a process that was killed between the two files
            rows.append({"from": stored.epochs, "to": new.epochs, "at": epoch})
            self.write_info({"lengthened": rows})
        if new != stored:
            self.write(CONFIG, new.to_yaml().encode())
        self.check_ours()
        (self.path / WEIGHTS).unlink(missing_ok=True)  # last: now the run has not ended

    def log(self, rows: Sequence[Mapping[str, float]]) -> None:
        """Write the epochs' rows to the CSV, and the last one to TensorBoard."""
        self.write_rows(rows)
        row = rows[-1]
        if self._writer is None and importlib.util.find_spec("tensorboard"):
            from torch.utils.tensorboard import SummaryWriter

            # what an interrupted run logged after its checkpoint is logged again
            self._writer = SummaryWriter(str(self.path / LOGS), purge_step=int(row["epoch"]))
            self._note_logs()
        if self._writer is not None:
            for name, value in row.items():
                if name != "epoch":
                    self._writer.add_scalar(name.replace("_", "/", 1), value, int(row["epoch"]))

    def write_rows(self, rows: Sequence[Mapping[str, float]]) -> None:
        """Write the epochs' rows to the CSV."""
        text = io.StringIO(newline="")
        writer = csv.DictWriter(text, rows[-1])
        writer.writeheader()
        for row in rows:
            writer.writerow({k: f"{v:.6g}" for k, v in row.items()})
        self.write(METRICS, text.getvalue().encode())

    def close(self) -> None:
        if self._writer is not None:
            self._writer.close()
            self._writer = None

    def _metrics_hash(self) -> str | None:
        path = self.path / METRICS
        return hashlib.sha256(path.read_bytes()).hexdigest() if path.exists() else None

    def _note_logs(self) -> None:
        """List the event file that this process writes, whose name TensorBoard makes."""
        name = Path(self._writer.file_writer.event_writer._file_name).name
        known = self.info.get("files")
        if known is not None and f"{LOGS}/{name}" not in known:
            self.write_info({"files": [*known, f"{LOGS}/{name}"]})

    def history(self) -> list[dict[str, float]]:
        """The rows of the CSV.

        Raises:
            ValueError: if it is damaged.
        """
        path = self.path / METRICS
        if not path.exists():
            return []
        try:
            content = path.read_bytes()
            rows = list(csv.DictReader(io.StringIO(content.decode(), newline=""), strict=True))
            values = [{str(k): float(v) for k, v in row.items()} for row in rows]
        except (OSError, ValueError, TypeError, csv.Error) as e:
            raise ValueError(f"{METRICS} is damaged: {str(e)[:200]}") from None
        if [row.get("epoch") for row in values] != [i + 1 for i in range(len(values))]:
            raise ValueError(f"{METRICS} is damaged: its epochs are not 1, 2, 3, ...")
        return values


def _info_of(path: Path) -> dict[str, Any]:
    """run.json if it is there, sound, and a run's."""
    try:
        info = read_json(path / INFO)
    except (OSError, ValueError):
        return {}
    return info if isinstance(info.get("classes"), list) and "versions" in info else {}


def _is_log(name: Any) -> bool:
    """Whether a name in run.json is that of a TensorBoard file in the run's own folder."""
    folder, _, file = str(name).partition("/")
    return folder == LOGS and file.startswith("events.out.tfevents.") and "/" not in file


def in_todays_words(config: Config, info: Mapping[str, Any]) -> Config:
    """A run's configuration, with the block that it was begun with as that is written today.

    Runs from before 0.2 note no version of the grammar; what they noted is of version 1.

    Raises:
        ValueError: for a version that this package does not know.
    """
    return config.change({"block": as_recorded(config.block, info.get(BLOCKS, 1))})


def _versions() -> dict[str, str]:
    from importlib.metadata import version

    from accuracy_booster.version import __version__

    own = {"python": sys.version.split()[0], "accuracy-booster": __version__}
    return {**own, **{n: version(n) for n in ("torch", "torchvision", "timm", "accelerate")}}

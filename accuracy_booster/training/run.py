"""A run's directory: configuration, metrics and final weights.

config.yaml        the resolved configuration: `train --config` repeats the run
run.json           the classes, versions and command, and the version of the grammar that the block
                   is written in; after the end also the result
metrics.csv        a row per epoch
tensorboard/       the same, where tensorboard is installed
checkpoints/       where it can go on (`training.checkpoint`)
model.safetensors  the weights after the last epoch; it is there when the run has ended
.lock              held by the process that trains here
"""

from __future__ import annotations

import csv
import importlib.util
import io
import json
import shutil
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from accuracy_booster.blocks import VERSION, as_recorded
from accuracy_booster.training.checkpoint import FOLDER, write
from accuracy_booster.training.config import TrainConfig

BLOCKS = "block_version"  # in run.json: which grammar config.yaml's block is written in
CONFIG, INFO, METRICS, WEIGHTS = "config.yaml", "run.json", "metrics.csv", "model.safetensors"


def has_ended(path: Path, epochs: int) -> bool:
    """Whether the run in a directory has its final weights, those after so many epochs.

    Where `train --resume RUN --epochs N` was killed as it began, the weights are there and rows of
    the metrics are missing.
    """
    done = len(Run(path).history())
    return (path / WEIGHTS).is_file() and (done >= epochs or not (path / METRICS).exists())


class Run:
    """The files of one run, written as it goes."""

    def __init__(self, path: Path):
        self.path = path
        self.info: dict[str, Any] = {}
        self.ended = False
        self._writer: Any = None

    @classmethod
    def check(cls, path: Path, overwrite: bool) -> None:
        """Raise ValueError where a run is already and may not be replaced."""
        cls.check_place(path)
        if (path / CONFIG).exists() and not overwrite:
            ended = (path / WEIGHTS).exists()
            state = "a run" if ended else "a run that has not ended"
            more = "" if ended else f"; go on with it by --resume {path}"
            raise ValueError(
                f"{path} already holds {state}; choose another --output, or --overwrite{more}"
            )

    @staticmethod
    def check_place(path: Path) -> None:
        """Raise ValueError where there can be no directory."""
        for place in (path, *path.parents):
            if place.exists():
                if not place.is_dir():
                    raise ValueError(f"output {path}: {place} is a file, not a directory")
                break

    @classmethod
    def create(cls, path: Path, config: TrainConfig, info: Mapping[str, Any]) -> Run:
        """A new run in `path`, in place of the one there if `config.overwrite` is on.

        Raises:
            ValueError: if there is one already, or the directory cannot be written.
        """
        cls.check(path, config.overwrite)
        for name in (CONFIG, INFO, METRICS, WEIGHTS):
            (path / name).unlink(missing_ok=True)
        for folder in ("tensorboard", FOLDER):
            shutil.rmtree(path / folder, ignore_errors=True)
        run = cls(path)
        try:
            path.mkdir(parents=True, exist_ok=True)
        except OSError as e:
            raise ValueError(f"cannot write to {path}: {e.strerror or e}") from e
        about = {"command": sys.argv, "versions": _versions(), BLOCKS: VERSION}
        run.write_info({**info, **about})
        write(path / CONFIG, config.to_yaml().encode())  # last: now there is a run
        return run

    @classmethod
    def open(cls, path: Path, *, ended: bool = True) -> tuple[Run, TrainConfig]:
        """A run, which must have ended unless told otherwise, and its configuration.

        Raises:
            ValueError: if there is none in `path`, or it has not ended.
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
            config = TrainConfig.from_yaml((path / CONFIG).read_text())
            run.info = json.loads((path / INFO).read_text())
            if not isinstance(run.info, dict) or not isinstance(run.info.get("classes"), list):
                raise ValueError(f"{INFO} names no classes")
            config = in_todays_words(config, run.info)
            run.ended = has_ended(path, config.epochs)
        except (OSError, ValueError) as e:
            raise ValueError(f"the run in {path} cannot be read: {e}") from e
        if ended and not run.ended:
            raise ValueError(
                f"the run in {path} has not ended: it is to be trained for {config.epochs} epochs; "
                f"go on with it by --resume {path}"
            )
        return run, config

    def write_info(self, more: Mapping[str, Any]) -> None:
        self.info.update(more)
        write(self.path / INFO, (json.dumps(self.info, indent=1) + "\n").encode())

    def go_on(self, config: TrainConfig, epoch: int) -> None:
        """Note what changes as the run goes on after so many epochs: its length, its data's place.

        Killed at any instant, the run has either ended as before, or goes on with the new length.
        """
        stored = TrainConfig.from_yaml((self.path / CONFIG).read_text())
        new = stored.change(
            {name: getattr(config, name) for name in ("epochs", "data", "data_dir")}
        )
        if new.epochs != stored.epochs:
            rows = list(self.info.get("lengthened", []))
            if rows and rows[-1]["to"] != stored.epochs:
                rows.pop()  # of a process that was killed between the two files
            rows.append({"from": stored.epochs, "to": new.epochs, "at": epoch})
            self.write_info({"lengthened": rows})
        if new != stored:
            write(self.path / CONFIG, new.to_yaml().encode())
        self.ended = False
        (self.path / WEIGHTS).unlink(missing_ok=True)  # last: now the run has not ended

    @property
    def hold_out(self) -> str:
        """How the share for validation was drawn: runs of older versions drew it by rows."""
        return self.info.get("hold_out") or "rows"

    def log(self, rows: Sequence[Mapping[str, float]]) -> None:
        """Write the epochs' rows to the CSV, and the last one to TensorBoard."""
        text = io.StringIO(newline="")
        writer = csv.DictWriter(text, rows[-1])
        writer.writeheader()
        for row in rows:
            writer.writerow({k: f"{v:.6g}" for k, v in row.items()})
        write(self.path / METRICS, text.getvalue().encode())
        row = rows[-1]
        if self._writer is None and importlib.util.find_spec("tensorboard"):
            from torch.utils.tensorboard import SummaryWriter

            # what an interrupted run logged after its checkpoint is logged again
            self._writer = SummaryWriter(
                str(self.path / "tensorboard"), purge_step=int(row["epoch"])
            )
        if self._writer is not None:
            for name, value in row.items():
                if name != "epoch":
                    self._writer.add_scalar(name.replace("_", "/", 1), value, int(row["epoch"]))

    def close(self) -> None:
        if self._writer is not None:
            self._writer.close()
            self._writer = None

    def history(self) -> list[dict[str, float]]:
        """The rows of the CSV."""
        if not (self.path / METRICS).exists():
            return []
        with (self.path / METRICS).open(newline="") as f:
            return [{k: float(v) for k, v in row.items()} for row in csv.DictReader(f)]


def in_todays_words(config: TrainConfig, info: Mapping[str, Any]) -> TrainConfig:
    """A run's configuration, with the block that it was begun with as that is written today.

    Runs from before 0.2 note no version of the grammar; what they noted is of version 1.

    Raises:
        ValueError: for a version that this package does not know.
    """
    return config.change({"block": as_recorded(config.block, info.get(BLOCKS, 1))})


def _versions() -> dict[str, str]:
    from importlib.metadata import version

    from accuracy_booster import __version__

    own = {"python": sys.version.split()[0], "accuracy-booster": __version__}
    return {**own, **{n: version(n) for n in ("torch", "torchvision", "timm", "accelerate")}}

"""A run's directory: configuration, metrics and final weights.

config.yaml        the resolved configuration: `train --config` repeats the run
run.json           the classes, versions and command; after the end also the result
metrics.csv        a row per epoch
tensorboard/       the same, where tensorboard is installed
model.safetensors  the weights after the last epoch; its presence means that the run ended
"""

from __future__ import annotations

import csv
import importlib.util
import json
import shutil
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from accuracy_booster.training.config import TrainConfig

CONFIG, INFO, METRICS, WEIGHTS = "config.yaml", "run.json", "metrics.csv", "model.safetensors"


class Run:
    """The files of one run, written as it goes."""

    def __init__(self, path: Path):
        self.path = path
        self.info: dict[str, Any] = {}
        self._writer: Any = None

    @staticmethod
    def check(path: Path, overwrite: bool) -> None:
        """Raise ValueError where a run is already and may not be replaced."""
        for place in (path, *path.parents):
            if place.exists():
                if not place.is_dir():
                    raise ValueError(f"output {path}: {place} is a file, not a directory")
                break
        if (path / CONFIG).exists() and not overwrite:
            state = "a run" if (path / WEIGHTS).exists() else "a run that has not ended"
            raise ValueError(
                f"{path} already holds {state}; choose another --output, or --overwrite"
            )

    @classmethod
    def create(cls, path: Path, config: TrainConfig, info: Mapping[str, Any]) -> Run:
        """A new run in `path`, in place of the one there if `config.overwrite` is on.

        Raises:
            ValueError: if there is one already, or the directory cannot be written.
        """
        cls.check(path, config.overwrite)
        for name in (CONFIG, INFO, METRICS, WEIGHTS):
            (path / name).unlink(missing_ok=True)
        shutil.rmtree(path / "tensorboard", ignore_errors=True)
        run = cls(path)
        try:
            path.mkdir(parents=True, exist_ok=True)
            (path / CONFIG).write_text(config.to_yaml())
        except OSError as e:
            raise ValueError(f"cannot write to {path}: {e.strerror or e}") from e
        run.write_info({**info, "command": sys.argv, "versions": _versions()})
        return run

    @classmethod
    def open(cls, path: Path) -> tuple[Run, TrainConfig]:
        """An ended run and its configuration.

        Raises:
            ValueError: if there is none in `path`, or it has not ended.
        """
        if not (path / CONFIG).is_file():
            raise ValueError(f"{path} holds no run (no {CONFIG}); give the --output of a training")
        if not (path / WEIGHTS).is_file():
            raise ValueError(f"the run in {path} has not ended: it has no {WEIGHTS}")
        run = cls(path)
        try:
            config = TrainConfig.from_yaml((path / CONFIG).read_text())
            run.info = json.loads((path / INFO).read_text())
        except (OSError, ValueError) as e:
            raise ValueError(f"the run in {path} cannot be read: {e}") from e
        if not isinstance(run.info, dict) or not isinstance(run.info.get("classes"), list):
            raise ValueError(f"the run in {path} cannot be read: {INFO} names no classes")
        return run, config

    def write_info(self, more: Mapping[str, Any]) -> None:
        self.info.update(more)
        (self.path / INFO).write_text(json.dumps(self.info, indent=1) + "\n")

    def log(self, row: Mapping[str, float]) -> None:
        """Add an epoch's row to the CSV and to TensorBoard."""
        file = self.path / METRICS
        new = not file.exists()
        with file.open("a", newline="") as f:
            writer = csv.DictWriter(f, row)
            if new:
                writer.writeheader()
            writer.writerow({k: f"{v:.6g}" for k, v in row.items()})
        if self._writer is None and importlib.util.find_spec("tensorboard"):
            from torch.utils.tensorboard import SummaryWriter

            self._writer = SummaryWriter(str(self.path / "tensorboard"))
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
        with (self.path / METRICS).open(newline="") as f:
            return [{k: float(v) for k, v in row.items()} for row in csv.DictReader(f)]


def _versions() -> dict[str, str]:
    from importlib.metadata import version

    names = ("accuracy-booster", "torch", "torchvision", "timm", "accelerate")
    return {"python": sys.version.split()[0], **{name: version(name) for name in names}}

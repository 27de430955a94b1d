"""The runs under a folder, with how far they are."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from accuracy_booster.safe_files import read_json
from accuracy_booster.training.checkpoint import FOLDER
from accuracy_booster.training.config import TrainConfig
from accuracy_booster.training.lock import is_locked
from accuracy_booster.training.run import CONFIG, INFO, Run, in_todays_words


@dataclass(frozen=True)
class Listed:
    """A run.

    `state` is finished, training, stopped (resume goes on), diverged, or damaged and why. `top1`
    is the test accuracy of a finished run, or the last epoch's of one that has not ended.
    """

    path: Path
    state: str
    model: str = ""
    block: str = ""
    data: str = ""
    seed: int = 0
    epoch: int = 0
    epochs: int = 0
    top1: float | None = None


def list_runs(folder: str | Path = "runs") -> list[Listed]:
    """Every run at any depth under a folder, by name.

    Raises:
        ValueError: if there is no such folder.
    """
    root = Path(folder)
    if not root.is_dir():
        raise ValueError(f"there is no folder {root}; give the one that your runs are in")
    return [_listed(path.parent) for path in sorted(root.rglob(CONFIG))]


def _listed(path: Path) -> Listed:
    try:
        config = TrainConfig.from_yaml((path / CONFIG).read_text())
        run = Run(path)
        rows = run.history()
        if (path / INFO).exists():
            run.info = read_json(path / INFO)
        state, config = run.state(config.epochs), in_todays_words(config, run.info)
        last = rows[-1] if rows else {}
        top1 = last.get("validation_top1", last.get("test_top1"))
        if state == "finished":
            top1 = run.info["test"]["top1"]
        elif is_locked(path):
            state = "training"
        elif state != "stopped":
            state = f"damaged: {state}"
        elif run.info.get("diverged"):
            state = "diverged"
        elif not any((path / FOLDER).glob("*.safetensors")):
            state = "stopped before its first checkpoint"
        return Listed(
            *(path, state, config.model, config.block, config.data_name, config.seed),
            *(int(last.get("epoch", 0)), config.epochs, top1),
        )
    except (OSError, ValueError, KeyError, TypeError) as e:
        reason = " ".join(str(e).split())[:60]
        return Listed(path, f"damaged: {reason or type(e).__name__}")

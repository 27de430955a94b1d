"""`list_runs`: the runs under a folder, and how far each one is."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from accuracy_booster.files import read_json
from accuracy_booster.training.checkpoint import FOLDER
from accuracy_booster.training.lock import is_locked
from accuracy_booster.training.run_config import RunConfig
from accuracy_booster.training.run_directory import Run, with_current_block
from accuracy_booster.training.run_files import CONFIG, INFO
from accuracy_booster.training.train_config import TrainConfig


@dataclass(frozen=True)
class Listed:
    """A run in the list.

    Attributes:
        state: finished, training, stopped (it can be resumed), diverged, or damaged and why.
        epoch: how many epochs are over, of `epochs`.
        top1: of classification, in %: the test set's for a finished run, otherwise the one that
            was measured after the last epoch.
        ap: of detection, COCO's average precision in %, as `top1`.
        split: on which it was measured: "test", or "validation" for a run that has not ended and
            has such a split.
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
    task: str = TrainConfig.task
    ap: float | None = None
    split: str = "test"


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
        text, run = (path / CONFIG).read_text(), Run(path)
        rows = run.history()
        if (path / INFO).exists():
            run.info = read_json(path / INFO)
        task = str(run.info.get("task", TrainConfig.task))
        if task == TrainConfig.task:
            config: RunConfig = TrainConfig.from_yaml(text)
            name = config.network
        else:
            config, name = RunConfig.of_any_task(text)
        state, config = run.state(config.epochs), with_current_block(config, run.info)
        last = rows[-1] if rows else {}
        validated = state != "finished" and any(name.startswith("validation_") for name in last)
        found = dict[str, float | None]()
        for measure in ("top1", "ap"):
            found[measure] = last.get(f"validation_{measure}", last.get(f"test_{measure}"))
            if state == "finished":
                found[measure] = run.info["test"].get(measure)
            if found[measure] != found[measure]:  # NaN: no box counts
                found[measure] = None
        if state != "finished" and is_locked(path):
            state = "training"
        elif state not in ("finished", "stopped"):
            state = f"damaged: {state}"
        elif state == "stopped" and run.info.get("diverged"):
            state = "diverged"
        elif state == "stopped" and not any((path / FOLDER).glob("*.safetensors")):
            state = "stopped before its first checkpoint"
        return Listed(
            *(path, state, name, config.block, config.data_name, config.seed),
            *(int(last.get("epoch", 0)), config.epochs, found["top1"], task, found["ap"]),
            split="validation" if validated else "test",
        )
    except (OSError, ValueError, KeyError, TypeError) as e:
        reason = " ".join(str(e).split())[:60]
        return Listed(path, f"damaged: {reason or type(e).__name__}")

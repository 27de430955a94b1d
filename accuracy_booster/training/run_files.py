"""The files in a run's directory: their names, where a run may be written, and removing one.

config.yaml        the completed configuration: `train --config` repeats the run
run.json           the run's id, fingerprints of its settings and data, the classes, versions and
                   command, the version of the grammar that the block is written in, and the names
                   of its TensorBoard files; after the end also the result, with the hashes of its
                   files
metrics.csv        a row per epoch
tensorboard/       the same, where tensorboard is installed
checkpoints/       from which the run can be resumed (`training.checkpoint`)
best.safetensors   the weights of the best epoch on the validation split, where there is one
model.safetensors  the weights after the last epoch, or those of the best one if these are kept; it
                   is there when the run has ended
report.html        the result on a page (`training.run_report`); eval writes it anew
model.onnx, ...    what `export` wrote, if it was given no other name (`exported.formats`)
.lock              held by the process that trains here
"""

from __future__ import annotations

import contextlib
import shlex
from pathlib import Path
from typing import Any

from accuracy_booster.exported.formats import exported_in
from accuracy_booster.files import check_folder, check_no_others, partial_name, read_json
from accuracy_booster.training.checkpoint import FOLDER, own_files
from accuracy_booster.training.lock import LOCK
from accuracy_booster.training.train_config import TrainConfig

CONFIG, INFO, METRICS, WEIGHTS = "config.yaml", "run.json", "metrics.csv", "model.safetensors"
BEST, REPORT = "best.safetensors", "report.html"
LOGS = "tensorboard"
BLOCKS = "block_version"  # in run.json: which grammar config.yaml's block is written in


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


def check_output(path: Path, overwrite: bool) -> None:
    """Check that a new run may be written to a directory.

    Raises:
        ValueError: if it holds a run that is not to be overwritten, or other files.
    """
    check_folder(path)
    if not path.is_dir():
        return
    if is_run(path):
        if overwrite:
            return
        ended = (path / WEIGHTS).exists()
        state = "a run" if ended else "a run that has not ended"
        more = "" if ended else f"; go on with it by --resume {path}"
        raise ValueError(
            f"{path} already holds {state}; choose another --output, or --overwrite{more}"
        )
    # what is left of a run that was killed before its config.yaml was there
    left = {LOCK, *map(partial_name, (INFO, CONFIG))}
    left |= {INFO} if _info_of(path) else set()
    check_no_others(path, left, "run")


def resume_command(path: Path) -> str:
    """The command that goes on with the run in a directory, of whichever task it is."""
    detects = _info_of(path).get("task") == "detection"
    return f"accuracy-booster {'detect ' * detects}train --resume {shlex.quote(str(path))}"


def remove_run(path: Path, *, whole: bool = True) -> None:
    """Remove what the run in a directory has written, and nothing else.

    Args:
        whole: remove config.yaml and run.json too. Without them there is no run.
    """
    info = _info_of(path)
    logs = info.get("files")
    if logs is None:  # a run of an older version lists none
        logs = [f"{LOGS}/{file.name}" for file in (path / LOGS).glob("events.out.tfevents.*")]
    own = own_files(path, info.get("id"))
    own += [path / name for name in logs if _is_log(name)]
    own += [path / name for name in (WEIGHTS, BEST, METRICS, REPORT)]
    own += exported_in(path, str(info["id"])) if info.get("id") else []
    own += [path / name for name in ((INFO, CONFIG) if whole else ())]
    for file in own:
        file.unlink(missing_ok=True)
        file.with_name(partial_name(file.name)).unlink(missing_ok=True)
    for folder in (LOGS, FOLDER):
        with contextlib.suppress(OSError):  # not empty: it holds files of others
            (path / folder).rmdir()


def _info_of(path: Path) -> dict[str, Any]:
    """run.json, or {} if it is missing, damaged or another program's."""
    try:
        info = read_json(path / INFO)
    except (OSError, ValueError):
        return {}
    return info if isinstance(info.get("classes"), list) and "versions" in info else {}


def _is_log(name: Any) -> bool:
    """Whether a name in run.json is that of a TensorBoard file in the run's own folder."""
    folder, _, file = str(name).partition("/")
    return folder == LOGS and file.startswith("events.out.tfevents.") and "/" not in file

"""Checkpoints: files of tensors and plain values with hashes, each written all or nothing.

checkpoints/epoch0002-step000120-<hash>.safetensors  after 2 epochs and 120 steps of the next one:
                                                     tensors, and plain values as JSON in the header
checkpoints/manifest.json                            the names, sizes and SHA-256 of those files

Loading a checkpoint never runs code. Its name holds the start of its hash, so that it can be
checked where the manifest is damaged. Its header names its run, so that the checkpoint of another
run, copied into the folder, is not taken for one of this run.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from accuracy_booster.errors import CannotWrite
from accuracy_booster.files import plain_tensors, write

FOLDER, MANIFEST = "checkpoints", "manifest.json"
_RUN = "run id"  # its key in the header, beside the values
_NAME = re.compile(r"epoch(\d+)-step(\d+)-([0-9a-f]{16})\.safetensors")
_PARTIAL = re.compile(rf"\.({_NAME.pattern}|{re.escape(MANIFEST)})\.partial")


@dataclass(frozen=True)
class Checkpoint:
    """Tensors by name, plain values, and the file they came from."""

    tensors: dict[str, torch.Tensor]
    values: dict[str, Any]
    path: Path


def save(
    run: Path,
    epoch: int,
    step: int,
    tensors: Mapping[str, torch.Tensor],
    values: Mapping[str, Any],
    *,
    identity: str | None = None,
    keep: int = 2,
) -> Path:
    """Write a checkpoint, and remove the run's own ones that are older than the newest `keep`.

    Args:
        run: the run's directory.
        epoch: how many epochs are over.
        step: how many steps of the next epoch are over.
        identity: the run's id, which the checkpoint will name.
        keep: how many good checkpoints of the run stay.

    Returns:
        The file.

    Raises:
        TrainingStopped: if it cannot be written; the earlier ones are untouched.
    """
    from safetensors.torch import save as to_bytes

    plain = plain_tensors(tensors)
    content = to_bytes(plain, {"values": json.dumps({**values, _RUN: identity or ""})})
    digest = hashlib.sha256(content).hexdigest()
    folder = run / FOLDER
    path = folder / f"epoch{epoch:04d}-step{step:06d}-{digest[:16]}.safetensors"
    try:
        folder.mkdir(exist_ok=True)  # without parents: a run that was removed is not made again
    except OSError as e:
        raise CannotWrite(f"cannot write {folder}: {e.strerror or e}") from e
    write(path, content, make_folder=False)
    good = {path.name: {"file": path.name, "bytes": len(content), "sha256": digest}}
    own = own_files(run, identity)  # it reads the old manifest, so before that is replaced
    names = {file.name for file in own} - {path.name}
    for old in _newest_first(folder)[0]:
        if len(good) >= keep:
            break
        if old not in names:
            continue
        with contextlib.suppress(ValueError):  # a damaged one does not count
            bytes_, known = _hash(folder / old, None)
            good[old] = {"file": old, "bytes": bytes_, "sha256": known}
    rows = sorted(good.values(), key=lambda row: str(row["file"]))
    text = json.dumps({"checkpoints": rows}, indent=1) + "\n"
    write(folder / MANIFEST, text.encode(), make_folder=False)
    for file in own:
        if file.name not in good and file.name != MANIFEST:
            file.unlink(missing_ok=True)
    return path


def own_files(run: Path, identity: str | None) -> list[Path]:
    """The files in a run's folder of checkpoints that the run itself wrote.

    They are the manifest, the checkpoints that name the run, damaged checkpoints that the manifest
    lists, and partial files that a killed process left. All other files are somebody else's.
    """
    folder = run / FOLDER
    listed = {row["file"] for row in _manifest(folder)[0]}
    own = []
    for file in folder.iterdir() if folder.is_dir() else ():
        if file.name == MANIFEST or _PARTIAL.fullmatch(file.name):
            own.append(file)
        elif _NAME.fullmatch(file.name):
            named = _run_of(file)
            if named == (identity or "") or (named is None and file.name in listed):
                own.append(file)
    return own


def _run_of(path: Path) -> str | None:
    """The id of the run that a checkpoint names, or ""; None if the file cannot be read."""
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, "pt") as f:
            return str(json.loads(f.metadata()["values"]).get(_RUN, ""))
    except (SafetensorError, OSError, ValueError, LookupError, TypeError, AttributeError):
        return None


def load(run: Path, identity: str | None = None) -> tuple[Checkpoint | None, list[str]]:
    """The last good checkpoint of a run, or None; and a line on each problem met on the way.

    Args:
        run: the run's directory.
        identity: the run's id; checkpoints that do not name it are passed over. None takes all.
    """
    folder = run / FOLDER
    rows, problems = _manifest(folder)
    known = {row["file"]: row for row in rows}
    names, others = _newest_first(folder)
    problems += [f"{folder / name} is missing" for name in known if name not in names]
    problems += [f"{folder / name} has no checkpoint's name" for name in others]
    for name in names:
        try:
            return _read(folder / name, known.get(name), identity), problems
        except ValueError as e:
            problems.append(str(e))
    return None, problems


def _newest_first(folder: Path) -> tuple[list[str], list[str]]:
    """The names of a folder's checkpoints, and those of files that are no checkpoints."""
    found, others = [], []
    for file in folder.glob("*.safetensors"):
        if match := _NAME.fullmatch(file.name):
            found.append((int(match[1]), int(match[2]), file.name))
        else:
            others.append(file.name)
    return [name for *_, name in sorted(found, reverse=True)], others


def _hash(path: Path, row: Mapping[str, Any] | None) -> tuple[int, str]:
    """The size and SHA-256 of a checkpoint.

    Args:
        row: the manifest's row of it, if there is one.

    Raises:
        ValueError: if they are not what the row and the file's name say.
    """
    try:
        content = path.read_bytes()
    except OSError as e:
        raise ValueError(f"{path} cannot be read: {e.strerror or e}") from e
    digest = hashlib.sha256(content).hexdigest()
    match = _NAME.fullmatch(path.name)
    if (row and row.get("sha256") != digest) or not (match and digest.startswith(match[3])):
        size = f", {len(content):,} bytes of {row['bytes']:,}" if row else ""
        raise ValueError(f"{path} is damaged: its hash is not the one it was written with{size}")
    return len(content), digest


def _read(path: Path, row: Mapping[str, Any] | None, identity: str | None) -> Checkpoint:
    """Read a checkpoint; ValueError if it is damaged, or another run's."""
    from safetensors import SafetensorError, safe_open
    from safetensors.torch import load as from_bytes

    _hash(path, row)
    try:
        with safe_open(path, "pt") as f:
            values = json.loads(f.metadata()["values"])
        named = values.pop(_RUN, "")
        if identity in (None, named):
            return Checkpoint(from_bytes(path.read_bytes()), values, path)
    except (SafetensorError, KeyError, TypeError, AttributeError, ValueError, OSError) as e:
        raise ValueError(f"{path} cannot be read: {' '.join(str(e).split())}") from e
    raise ValueError(f"{path} is of another run and is left alone")


def _manifest(folder: Path) -> tuple[list[dict[str, Any]], list[str]]:
    """The manifest's rows, and a line on what is wrong with it, if anything is."""
    path = folder / MANIFEST
    if not path.exists():
        return [], []
    try:
        rows = json.loads(path.read_bytes())["checkpoints"]
        for row in rows:
            match = _NAME.fullmatch(row["file"])
            digest, size = row["sha256"], row["bytes"]
            if not (match and len(digest) == 64 and digest.startswith(match[3]) and size > 0):
                raise ValueError("a row contradicts itself")
        return rows, []
    except (ValueError, KeyError, TypeError, OSError, RecursionError) as e:
        return [], [f"{path} is damaged: {e}"]

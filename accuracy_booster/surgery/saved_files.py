"""The two files of a save, and how they are read so that they always belong together.

DIR/booster.json          blocks, sites, the base's class, structure and fingerprint, versions, and
                          the hash of booster.safetensors
DIR/booster.safetensors   the gates, and the base's buffers that have changed (running statistics);
                          with full=True the whole network; and a copy of what booster.json says

booster.safetensors is written first, and all or nothing. A save over an older one that is
interrupted after it leaves a new booster.safetensors beside an old booster.json. The hash in
booster.json shows that, and reading then takes the copy inside booster.safetensors. So a save is
always read as one of the two, never as a mixture.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from accuracy_booster.files import pack, read_json, unpack, write, write_json
from accuracy_booster.surgery.gated import ATTRIBUTE

INFO, TENSORS = "booster.json", "booster.safetensors"


def write_save(folder: Path, info: Mapping[str, Any], tensors: Mapping[str, torch.Tensor]) -> None:
    """Write both files: booster.safetensors, then booster.json.

    Raises:
        CannotWrite: if one cannot be written; what was saved there before still loads.
    """
    content, digest = pack(tensors, dict(info))
    write(folder / TENSORS, content)
    write_json(folder / INFO, {**info, "tensors": digest})


def read_save(folder: Path) -> tuple[dict[str, Any], dict[str, torch.Tensor]]:
    """What booster.json says and the tensors, of one and the same save.

    Files of versions that stored no hash are read as they are.

    Raises:
        OSError: if a file is missing or cannot be read.
        ValueError: if a file is damaged, or the two belong to different saves.
    """
    info, packed = read_json(folder / INFO), unpack(folder / TENSORS)
    if "sites" not in info:
        raise ValueError(f"{INFO} is damaged: it names no sites")
    if packed.sha256 is None and "tensors" in info:
        raise ValueError(f"{TENSORS} is not the file that {INFO} was written for")
    same = packed.sha256 is None or info.get("tensors") == packed.sha256
    return (info if same else packed.values), packed.tensors


def prefix_of(site: str) -> str:
    """What the names of a gate's tensors start with in a file, wherever the gate is held."""
    return f"{site}.{ATTRIBUTE}." if site else f"{ATTRIBUTE}."


def as_path(path: str | Path) -> Path:
    """The path of a save's directory.

    Raises:
        ValueError: for another type than text or a path.
    """
    if not isinstance(path, (str, Path)):
        raise ValueError(f"expected a directory's path, got {type(path).__name__}")
    return Path(path)

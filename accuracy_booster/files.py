"""The one way to write a file: all or nothing, on the disk, and with a hash that reading checks.

write        bytes; after a crash there is the old file or the new one
write_json   a JSON object that holds the SHA-256 of its own content
pack         tensors and plain values as one safetensors file that holds its own SHA-256

A file of another program, or of an older version, holds no hash; nothing can be checked then.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from accuracy_booster.errors import CannotWrite

HASH = "sha256"
OURS = "accuracy_booster"  # the one entry of a safetensors file's metadata: several have no order


def write(path: Path, content: bytes, *, make_folder: bool = True) -> None:
    """Write a file all or nothing: after a crash there is the old one, or the new one.

    Args:
        make_folder: make the folder if it is not there.

    Raises:
        CannotWrite: if it cannot be written (a full disk); what was there is still there.
    """
    partial = path.with_name(partial_name(path.name))
    try:
        if make_folder:
            path.parent.mkdir(parents=True, exist_ok=True)
        with partial.open("wb") as f:
            f.write(content)
            f.flush()
            os.fsync(f.fileno())
        partial.replace(path)
        _flush_folder(path.parent)
    except (OSError, ValueError) as e:  # ValueError: a name with a NUL in it
        with contextlib.suppress(OSError, ValueError):
            partial.unlink(missing_ok=True)
        raise CannotWrite(f"cannot write {path}: {getattr(e, 'strerror', None) or e}") from e


def check_folder(path: Path) -> None:
    """Raise ValueError where there can be no folder, because a file is in the way."""
    for place in (path, *path.parents):
        if place.exists():
            if not place.is_dir():
                raise ValueError(f"cannot write to {path}: {place} is a file, not a directory")
            return


def check_no_others(path: Path, ours: Collection[str], what: str) -> None:
    """Raise ValueError if an output directory, which holds no `what`, has other files than ours."""
    if others := sorted(file.name for file in path.iterdir() if file.name not in ours):
        few = ", ".join(others[:3]) + (", ..." if len(others) > 3 else "")
        raise ValueError(
            f"output {path} holds other files ({few}) and no {what}; choose a directory that is "
            "new or empty"
        )


def partial_name(name: str) -> str:
    """The name under which a file is written before it is renamed."""
    return f".{name}.partial"


def _flush_folder(folder: Path) -> None:
    """Make a rename last; not every system can."""
    with contextlib.suppress(OSError):
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


# --- JSON


def write_json(path: Path, value: Mapping[str, Any], *, make_folder: bool = True) -> None:
    """Write a JSON object with the hash of its content, as `write` does."""
    text = json.dumps({**value, HASH: hash_of(value)}, indent=1) + "\n"
    write(path, text.encode(), make_folder=make_folder)


def read_json(path: Path, *, must_hold_hash: bool = False) -> dict[str, Any]:
    """The object that `write_json` wrote, without its hash.

    Args:
        must_hold_hash: refuse a file that holds none: no older version wrote such files.

    Raises:
        OSError: if it cannot be read.
        ValueError: if it is damaged, no object, or was changed since it was written.
    """
    if path.exists() and not path.is_file():  # a pipe would be waited for
        raise ValueError(f"{path.name} is damaged: it is no regular file")
    try:
        value = json.loads(path.read_bytes())
    except (ValueError, RecursionError) as e:
        raise ValueError(f"{path.name} is damaged: {str(e)[:200]}") from None
    if not isinstance(value, dict):
        raise ValueError(f"{path.name} is damaged: it holds no JSON object")
    known = value.pop(HASH, None)
    if known is None and must_hold_hash:
        raise ValueError(f"{path.name} is damaged: it holds no {HASH} of its content")
    if known is not None and known != hash_of(value):
        raise ValueError(
            f"{path.name} is damaged, or was changed since it was written: its content has another "
            "hash; put the file back as it was"
            + ("" if must_hold_hash else f" (after a change of your own, remove its {HASH})")
        )
    return value


def hash_of(value: Any) -> str:
    """The SHA-256 of a plain value, whatever the order of its keys."""
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()


# --- tensors


@dataclass(frozen=True)
class Packed:
    """Tensors by name, the plain values beside them, and their hash (None where it holds none)."""

    tensors: dict[str, torch.Tensor]
    values: dict[str, Any]
    sha256: str | None


def pack(tensors: Mapping[str, torch.Tensor], values: Mapping[str, Any]) -> tuple[bytes, str]:
    """Tensors and plain values as the bytes of a safetensors file, and the hash that it holds.

    Any program that reads safetensors reads it; the values and the hash are in its metadata.
    """
    from safetensors.torch import save

    plain = plain_tensors(tensors)
    text = json.dumps(values)
    digest = _digest(plain, text)
    return save(plain, {OURS: json.dumps({"values": text, HASH: digest})}), digest


def plain_tensors(tensors: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Copies that safetensors writes: on the CPU, contiguous, and none sharing memory."""
    return {
        name: tensor.detach().cpu().clone(memory_format=torch.contiguous_format)
        for name, tensor in tensors.items()
    }


def unpack(path: Path) -> Packed:
    """What `pack` made, or the tensors of any other safetensors file.

    Raises:
        OSError: if it cannot be read.
        ValueError: if it is damaged: cut off, or its content has another hash than it holds.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load

    content = path.read_bytes()
    try:
        tensors = load(content)
        size = int.from_bytes(content[:8], "little")
        metadata = json.loads(content[8 : 8 + size]).get("__metadata__") or {}
        if OURS not in metadata:
            return Packed(tensors, {}, None)
        ours = json.loads(metadata[OURS])
        known, text = ours[HASH], ours["values"]
        if _digest(tensors, text) != known:
            raise ValueError("its content has another hash than the one it was written with")
        return Packed(tensors, json.loads(text), known)
    except (SafetensorError, LookupError, TypeError, AttributeError, ValueError, RuntimeError) as e:
        reason = " ".join(str(e).split())[:200]
        raise ValueError(f"{path} is damaged ({len(content):,} bytes): {reason}") from None


def _digest(tensors: Mapping[str, torch.Tensor], text: str) -> str:
    """The SHA-256 of values and tensors: names, types, shapes and bytes."""
    sha = hashlib.sha256(text.encode())
    for name, tensor in sorted(tensors.items()):
        sha.update(json.dumps([name, str(tensor.dtype), list(tensor.shape)]).encode())
        flat = tensor.contiguous().reshape(-1)
        sha.update(flat.view(torch.uint8).numpy().data if flat.numel() else b"")
    return sha.hexdigest()

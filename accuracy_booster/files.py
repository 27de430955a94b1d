"""The one way to write a file: after a crash there is the old file or the new one, never a part.

write        writes bytes
write_json   writes a JSON object together with the SHA-256 of its content
pack         makes tensors and plain values one safetensors file that holds its SHA-256

Reading checks the hash. A file of another program, or of an older version, holds no hash and is
read without this check.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from accuracy_booster.errors import CannotWrite

if TYPE_CHECKING:
    import torch

HASH = "sha256"
OURS = "accuracy_booster"  # the entry of our safetensors files' metadata with values and hash


def write(path: Path, content: bytes, *, make_folder: bool = True) -> None:
    """Write a file. After a crash there is the old one or the new one.

    The bytes go to a temporary file, which is flushed to the disk and then renamed.

    Args:
        make_folder: make the folder if it does not exist.

    Raises:
        CannotWrite: if it cannot be written (a full disk). The old file is still there then.
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
    """Raise ValueError if a folder cannot be made because a file is in its place or above it."""
    for place in (path, *path.parents):
        if place.exists():
            if not place.is_dir():
                raise ValueError(f"cannot write to {path}: {place} is a file, not a directory")
            return


def check_no_others(path: Path, ours: Collection[str], what: str) -> None:
    """Raise ValueError if an output directory holds files that we did not write.

    `what` names what we would write, for the error.
    """
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
    """Write the folder's entries to the disk, so that a rename in it survives a power cut.

    Not every system can open a folder; there nothing is done.
    """
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
        must_hold_hash: refuse a file without a hash. For files that no older version wrote.

    Raises:
        OSError: if it cannot be read.
        ValueError: if it is damaged, is no JSON object, or was changed since it was written.
    """
    if path.exists() and not path.is_file():  # reading a pipe would wait for its writer
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
    """The SHA-256 of a plain value. The order of its keys does not matter."""
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()


# --- tensors


@dataclass(frozen=True)
class Packed:
    """Tensors by name, the plain values beside them, and their hash (None in a foreign file)."""

    tensors: dict[str, torch.Tensor]
    values: dict[str, Any]
    sha256: str | None


def pack(
    tensors: Mapping[str, torch.Tensor],
    values: Mapping[str, Any],
    metadata: Mapping[str, str] | None = None,
) -> tuple[bytes, str]:
    """The bytes of a safetensors file with these tensors and plain values, and the hash in it.

    Every program that reads safetensors can read it. Values and hash are in its metadata.

    Args:
        metadata: further entries of the metadata, for other programs. `unpack` does not read them.
    """
    from safetensors.torch import save

    plain = plain_tensors(tensors)
    text = json.dumps(values)
    digest = _digest(plain, text)
    content = save(plain, {OURS: json.dumps({"values": text, HASH: digest})})
    return (_with_metadata(content, metadata) if metadata else content), digest


def _with_metadata(content: bytes, more: Mapping[str, str]) -> bytes:
    """A safetensors file with more metadata, always in the same order.

    safetensors itself writes several entries in a random order, and then equal networks would not
    give equal files. The format: 8 bytes with the header's size, the header as JSON, the tensors.
    """
    size = int.from_bytes(content[:8], "little")
    header = json.loads(content[8 : 8 + size])
    header["__metadata__"] = dict(sorted({**header["__metadata__"], **more}.items()))
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)  # the tensors are aligned to 8 bytes
    return len(text).to_bytes(8, "little") + text + content[8 + size :]


def plain_tensors(tensors: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Copies in the form that safetensors can write: on the CPU, contiguous, sharing no memory."""
    import torch

    return {
        name: tensor.detach().cpu().clone(memory_format=torch.contiguous_format)
        for name, tensor in tensors.items()
    }


def unpack(path: Path) -> Packed:
    """The content of a safetensors file, of `pack` or of another program.

    Raises:
        OSError: if it cannot be read.
        ValueError: if it is damaged: it is cut off, or its content does not have the hash in it.
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
    """The SHA-256 of the values' text and of each tensor's name, type, shape and bytes."""
    import torch

    sha = hashlib.sha256(text.encode())
    for name, tensor in sorted(tensors.items()):
        sha.update(json.dumps([name, str(tensor.dtype), list(tensor.shape)]).encode())
        flat = tensor.contiguous().reshape(-1)
        sha.update(flat.view(torch.uint8).numpy().data if flat.numel() else b"")
    return sha.hexdigest()

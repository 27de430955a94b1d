"""Fingerprints of the base network: which of its tensors changed, and whether two bases are equal.

`boosting` notes them, and `saving` and `loading` compare them.
"""

from __future__ import annotations

import hashlib
import json
import zlib

import numpy as np
import torch
from torch import nn

from accuracy_booster.surgery.attention import Replaced
from accuracy_booster.surgery.gated import is_of_gate
from accuracy_booster.surgery.state import state_of, update_state
from accuracy_booster.surgery.wrappers import own_names, tensors

ORDERED = "crc32:"  # what fingerprints start with that depend on the order of filters


def remember_base(model: nn.Module) -> None:
    """Note the base's tensors as they are now, so that `ab.save` knows which have changed.

    What was noted at an earlier boost stays.
    """
    if state_of(model).base_fingerprints is None:
        update_state(model, base_fingerprints=fingerprints(model))


def fingerprints(model: nn.Module) -> dict[str, str]:
    """A short mark of each tensor of the base. It shows a change but does not prevent forgery."""
    return {name: "meta" if t.is_meta else _mark(t) for name, t in base_tensors(model).items()}


def base_tensors(model: nn.Module) -> dict[str, torch.Tensor]:
    """The tensors of the network without gates, those of replaced attention modules included."""
    found = {n: t for n, t in tensors(model).items() if not is_of_gate(n)}
    names = own_names(model)
    for name, module in model.named_modules():
        if isinstance(module, Replaced):
            original = tensors(module.original)
            found |= {f"{names[name]}.{key}": tensor for key, tensor in original.items()}
    return found


def structure(model: nn.Module) -> str:
    """A hash of the names and shapes of the base's tensors."""
    shapes = sorted((name, list(t.shape)) for name, t in base_tensors(model).items())
    return hashlib.sha256(json.dumps(shapes).encode()).hexdigest()


def combined(marks: dict[str, str]) -> str:
    """One fingerprint of all marks."""
    return ORDERED + hashlib.sha256(json.dumps(sorted(marks.items())).encode()).hexdigest()


def is_same_base(model: nn.Module, fingerprint: str) -> bool:
    """Whether the base has the weights whose combined fingerprint was stored."""
    if fingerprint.startswith(ORDERED):
        return combined(fingerprints(model)) == fingerprint
    return former_combined(model) == fingerprint


def former_combined(model: nn.Module) -> str:
    """The combined fingerprint as versions before 0.3 stored it."""
    items = base_tensors(model).items()
    former = {name: "meta" if t.is_meta else _former_mark(t) for name, t in items}
    return combined(former).removeprefix(ORDERED)


def _bytes_of(tensor: torch.Tensor) -> np.ndarray:
    return tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy()


def _mark(tensor: torch.Tensor) -> str:
    return f"{zlib.crc32(_bytes_of(tensor).data):08x}" if tensor.numel() else ""


def _former_mark(tensor: torch.Tensor) -> str:
    """The mark of versions before 0.3, which did not depend on the order of filters."""
    data = _bytes_of(tensor)
    words = data[: data.size // 8 * 8].view(np.uint64)
    tail = data[words.size * 8 :].tobytes().hex()
    total, parity = int(words.sum(dtype=np.uint64)), int(np.bitwise_xor.reduce(words))
    return f"{total:x}-{parity:x}-{tail}"

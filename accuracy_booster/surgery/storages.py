"""Which part of a storage was written last: every view that overlaps it has changed."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Generic, TypeVar

import torch
from torch.multiprocessing.reductions import StorageWeakRef

V = TypeVar("V")


@dataclass(eq=False)
class Written(Generic[V]):
    """The last write into a storage: what was written, and which elements at most."""

    storage: StorageWeakRef  # while it is held, no other storage has the same key
    value: V
    span: tuple[int, int]


class Writes(Generic[V]):
    """The last write into each storage."""

    def __init__(self) -> None:
        self._last: dict[int, Written[V]] = {}

    def note(self, tensor: torch.Tensor, value: V) -> None:
        """Note that `value` was written through a tensor."""
        storage = _storage(tensor)
        if storage is not None:
            self._last[storage._cdata] = Written(StorageWeakRef(storage), value, _span(tensor))

    def last(self, tensor: torch.Tensor) -> Written[V] | None:
        """The last write into the storage of a tensor, maybe into another part of it."""
        storage = _storage(tensor)
        return self._last.get(storage._cdata) if storage is not None else None


def overlaps(tensor: torch.Tensor, written: Written[V]) -> bool:
    """Whether a tensor may read elements that were written."""
    first, last = _span(tensor)
    return first <= written.span[1] and written.span[0] <= last


def _storage(tensor: torch.Tensor) -> torch.UntypedStorage | None:
    try:
        return tensor.untyped_storage()
    except (RuntimeError, NotImplementedError, ValueError):  # sparse or lazy tensors have none
        return None


def _span(tensor: torch.Tensor) -> tuple[int, int]:
    """The first and the last element of its storage that a tensor may read."""
    first = int(tensor.storage_offset())
    sides = zip(tensor.shape, tensor.stride(), strict=True)
    return first, first + int(sum((size - 1) * step for size, step in sides))

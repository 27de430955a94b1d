"""How fused operations are executed, within a scope; one place that chooses."""

from __future__ import annotations

import functools
import importlib.util
import os
from collections.abc import Iterator
from contextlib import contextmanager
from types import ModuleType

import torch

from accuracy_booster.errors import unknown

BACKENDS = {
    "auto": "Triton's kernels for tensors on a GPU where Triton is installed, else the reference",
    "reference": "plain torch: what defines the result",
    "triton": "the kernels in affine_kernels.py; on the CPU with TRITON_INTERPRET=1",
    "unfused": "fused networks compute layer by layer, as before ab.fuse",
}
_current = "auto"


@contextmanager
def using(backend: str) -> Iterator[None]:
    """`with using("reference"):` fused operations run in this way (`BACKENDS` lists them).

    Raises:
        ValueError: for an unknown one.
    """
    global _current
    if backend not in BACKENDS:
        raise unknown("backend", backend, BACKENDS)
    before, _current = _current, backend
    try:
        yield
    finally:
        _current = before


@functools.cache
def has_triton() -> bool:
    return importlib.util.find_spec("triton") is not None


def implementation(x: torch.Tensor) -> ModuleType:
    """The module whose functions run on x: `affine_reference` or `affine_kernels`."""
    from accuracy_booster.ops import affine_reference

    fits = x.dtype in (torch.float32, torch.bfloat16, torch.float16)
    wanted = _current == "triton" or (_current == "auto" and x.is_cuda and has_triton())
    if not (wanted and fits):
        return affine_reference
    if not x.is_cuda and os.environ.get("TRITON_INTERPRET") != "1":
        raise ValueError(
            f"Triton's kernels run on a GPU, and this map is on {x.device}; start Python with "
            "TRITON_INTERPRET=1 to interpret them, or use using('reference')"
        )
    from accuracy_booster.ops import affine_kernels

    return affine_kernels


def is_traced() -> bool:
    """Whether a compiler is following what runs."""
    return torch.compiler.is_compiling()


def is_plain() -> bool:
    """Whether fused networks compute layer by layer: asked for, or seen by an exporter."""
    exporting = getattr(torch.compiler, "is_exporting", lambda: False)
    return _current == "unfused" or torch.jit.is_tracing() or exporting()

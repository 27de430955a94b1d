"""How fused operations are executed: by Triton's kernels, by plain torch, or not fused at all.

`using` chooses within a scope. `affine` and the modules of `fastpath` ask here what was chosen.
"""

from __future__ import annotations

import functools
import importlib.util
import os
from collections.abc import Iterator
from contextlib import contextmanager
from types import ModuleType

import torch

from accuracy_booster.errors import unknown
from accuracy_booster.ops import affine_reference

BACKENDS = {
    "auto": "Triton's kernels for tensors on a GPU where Triton is installed, else the reference",
    "reference": "plain torch: what defines the result",
    "triton": "the kernels that affine_triton.py runs; on the CPU with TRITON_INTERPRET=1",
    "unfused": "fused networks compute layer by layer, as before ab.fuse",
}


class _Choice:
    """The backend in force, for the whole process. Only `using` sets it.

    This is a variable of the module and not a `contextvars.ContextVar`, for two reasons. On a GPU
    autograd runs the backward pass in threads of its own, and a context variable has its default
    there. And torch.compile notices that a variable of a module has changed since it compiled a
    function, and compiles the function again; of context variables it knows nothing.
    """

    def __init__(self) -> None:
        self.backend = "auto"


_choice = _Choice()


@contextmanager
def using(backend: str) -> Iterator[None]:
    """`with using("reference"):` fused operations run in this way (`BACKENDS` lists them).

    Raises:
        ValueError: for an unknown backend.
    """
    if backend not in BACKENDS:
        raise unknown("backend", backend, BACKENDS)
    before, _choice.backend = _choice.backend, backend
    try:
        yield
    finally:
        _choice.backend = before


@functools.cache
def has_triton() -> bool:
    """Whether Triton is installed."""
    return importlib.util.find_spec("triton") is not None


def implementation(x: torch.Tensor) -> ModuleType:
    """The module whose functions run on x: `affine_reference` or `affine_triton`.

    Raises:
        ValueError: if Triton was chosen and x is neither on a GPU nor interpreted.
    """
    fits = x.dtype in (torch.float32, torch.bfloat16, torch.float16)
    automatic = _choice.backend == "auto" and x.is_cuda and has_triton()
    if not (fits and (automatic or _choice.backend == "triton")):
        return affine_reference
    if not x.is_cuda and os.environ.get("TRITON_INTERPRET") != "1":
        raise ValueError(
            f"Triton's kernels run on a GPU, and this map is on {x.device}; start Python with "
            "TRITON_INTERPRET=1 to interpret them, or use using('reference')"
        )
    # imported here because it needs Triton, which is not installed everywhere
    from accuracy_booster.ops import affine_triton

    return affine_triton


def is_unfused() -> bool:
    """Whether fused networks compute layer by layer: it was chosen, or an exporter is at work."""
    exporting = getattr(torch.compiler, "is_exporting", lambda: False)
    return _choice.backend == "unfused" or torch.jit.is_tracing() or exporting()


def needs_torch_operations() -> bool:
    """Whether to compute with torch's own operations in place of our autograd functions.

    That is so while torch.compile follows what runs, since it fuses torch's operations itself, and
    within transforms such as `torch.vmap`, which our autograd functions do not support.
    """
    in_transform = torch._C._functorch.maybe_current_level  # type: ignore[attr-defined]
    return torch.compiler.is_compiling() or in_transform() is not None

"""How fused operations are executed: by kernels, by plain torch, or not fused at all.

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
from accuracy_booster.ops import affine_native, affine_reference, native

BACKENDS = {
    "auto": "compiled by torch.compile; else triton on a GPU, native on the CPU; else unfused",
    "reference": "plain torch: what defines the result",
    "triton": "the kernels that affine_triton.py runs; on the CPU with TRITON_INTERPRET=1",
    "native": "the C++ that affine_native.py calls, on the CPU; it needs g++",
    "unfused": "fused networks compute layer by layer, as before ab.fuse",
}


class _Choice:
    """What is in force, for the whole process. Only `using` and `joining` set it.

    These are variables of the module and not a `contextvars.ContextVar`, for two reasons. On a GPU
    autograd runs the backward pass in threads of its own, and a context variable has its default
    there. And torch.compile notices that a variable of a module has changed since it compiled a
    function, and compiles the function again; of context variables it knows nothing.
    """

    def __init__(self) -> None:
        self.backend = "auto"
        self.joins = False  # set by `joining`


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
    """The module whose functions run on x: `affine_reference` or one with kernels.

    Raises:
        ValueError: if Triton was chosen and x is neither on a GPU nor interpreted; or if C++ was
            chosen and cannot be compiled here.
    """
    if _choice.backend in ("auto", "native") and x.device.type == "cpu":
        return affine_native if _native_takes(x) else affine_reference
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


def _native_takes(x: torch.Tensor) -> bool:
    """Whether the C++ runs on x, on the CPU."""
    # the C++ reads memory: a fake tensor has none, and a trace of operators would not see it
    plain = type(x) in (torch.Tensor, torch.nn.Parameter) and not _records_operators()
    if not (plain and x.dtype in affine_native.DTYPES and x.layout is torch.strided):
        return False
    if native.library() is not None:
        return True
    if _choice.backend == "native":
        raise ValueError(
            f"the C++ for the CPU is not there: {native.why_no_library()}; use using('reference')"
        )
    return False


def _records_operators() -> bool:
    """Whether `make_fx` records the operators that run."""
    if torch._C._len_torch_dispatch_stack() == 0:  # type: ignore[attr-defined]
        return False
    from torch.fx.experimental.proxy_tensor import get_proxy_mode

    return get_proxy_mode() is not None


def fuses(x: torch.Tensor) -> bool:
    """Whether a fused module computes x in its fused way, and not layer by layer.

    By default it does so where that is fast: while torch.compile follows what runs, and where there
    is a kernel for x. The reference alone is slower than the layers are.
    """
    if is_unfused():
        return False
    if _choice.backend != "auto" or torch.compiler.is_compiling():
        return True
    return not needs_torch_operations() and implementation(x) is not affine_reference


def eager_on_cpu() -> str:
    """How a fused network runs in eager mode on the CPU, in a few words."""
    if native.library() is not None:
        return "compiled C++ (float32, float64)"
    return f"layer by layer, as before fusing, because {native.why_no_library()}"


def is_unfused() -> bool:
    """Whether fused networks compute layer by layer: it was chosen, or an exporter is at work.

    An exporter within `joining` keeps our kernel.
    """
    exporting = getattr(torch.compiler, "is_exporting", lambda: False)
    return (
        _choice.backend == "unfused"
        or torch.jit.is_tracing()
        or (exporting() and not _choice.joins)
    )


def needs_torch_operations() -> bool:
    """Whether to compute with torch's own operations in place of our autograd functions.

    That is so while torch.compile follows what runs, since it fuses torch's operations itself, and
    within transforms such as `torch.vmap`, which our autograd functions do not support.
    """
    return torch.compiler.is_compiling() or in_transform()


def in_transform() -> bool:
    """Whether a transform of `torch.func` (vmap, jvp, ...) or forward-mode AD is at work."""
    level = torch._C._functorch.maybe_current_level  # type: ignore[attr-defined]
    return level() is not None or torch.autograd.forward_ad._current_level >= 0


@contextmanager
def joining() -> Iterator[None]:
    """`with joining():` what is compiled here may use our convolution kernel.

    `fastpath.joining` has the passes for it. Other compilers get torch's convolution, with which
    they can join more.
    """
    before, _choice.joins = _choice.joins, True
    try:
        yield
    finally:
        _choice.joins = before


def joins() -> bool:
    """Whether `joining` is in force."""
    return _choice.joins

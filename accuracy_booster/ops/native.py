"""The library of C++ functions that `affine_native` calls on maps of the CPU.

Its sources need a C++ compiler and nothing of torch, so that they compile in seconds. Where that
fails there is no library, and `why_no_library` says why: the callers then do without.
"""

from __future__ import annotations

import ctypes
import functools

from accuracy_booster.ops.native_code import NotCompiled, compiled

SOURCES = ("affine_native.cpp", "norm_native.cpp")


def library() -> ctypes.CDLL | None:
    """The compiled sources; None where they cannot be compiled or loaded."""
    return _loaded()[0]


def why_no_library() -> str:
    """Why there is no library, in a few words; "" if there is one."""
    return _loaded()[1]


@functools.cache
def _loaded() -> tuple[ctypes.CDLL | None, str]:
    try:
        return ctypes.CDLL(str(compiled(*SOURCES))), ""
    except (NotCompiled, OSError) as error:
        return None, str(error).splitlines()[0][:200]

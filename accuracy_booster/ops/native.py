"""C++ for the CPU, compiled when it is first needed and kept in the user's cache.

The sources need a C++ compiler and nothing of torch, so that they compile in seconds. Where that
fails there is no library, and `why_no_library` says why: the callers then do without.
"""

from __future__ import annotations

import ctypes
import functools
import hashlib
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import torch

HERE = Path(__file__).parent
SOURCES = ("affine_native.cpp", "norm_native.cpp")
COMPILE = ("-std=c++17", "-O3", "-fopenmp", "-shared", "-fPIC")
# the instructions that torch itself uses on this processor
INSTRUCTIONS = {
    "AVX2": ("-mavx2", "-mfma"),
    "AVX512": (
        *("-mavx2", "-mfma", "-mavx512f", "-mavx512bw", "-mavx512dq", "-mavx512vl"),
        "-mprefer-vector-width=512",
    ),
}
MOST_SECONDS = 120.0  # for the compiler


def library() -> ctypes.CDLL | None:
    """The compiled sources; None where they cannot be compiled or loaded."""
    return _loaded()[0]


def why_no_library() -> str:
    """Why there is no library, in a few words; "" if there is one."""
    return _loaded()[1]


@functools.cache
def _loaded() -> tuple[ctypes.CDLL | None, str]:
    if sys.platform != "linux":
        return None, f"C++ is compiled on Linux alone, and this is {sys.platform}"
    compiler = shutil.which(os.environ.get("CXX", "")) or shutil.which("g++")
    if compiler is None:
        return None, "there is no g++ (CXX names another compiler)"
    try:
        return ctypes.CDLL(str(_compiled(compiler))), ""
    except subprocess.CalledProcessError as e:
        said = e.stderr.decode(errors="replace").strip().splitlines() or [
            f"exit code {e.returncode}"
        ]
        return None, f"{compiler} failed: {said[0][:200]}"
    except (OSError, subprocess.TimeoutExpired) as e:
        return None, f"{type(e).__name__}: {str(e)[:200]}"


def _compiled(compiler: str) -> Path:
    """The library's file, which is compiled if it is not there.

    Its name holds what it was made from: another version of the sources is another file. Several
    processes may compile at once; each moves a whole file into its place.
    """
    sources = [HERE / name for name in SOURCES]
    flags = [*COMPILE, *INSTRUCTIONS.get(torch.backends.cpu.get_cpu_capability(), ())]
    made_from = hashlib.sha256(" ".join([compiler, *flags]).encode())
    for source in sources:
        made_from.update(source.read_bytes())
    file = _folder() / f"accuracy_booster_{made_from.hexdigest()[:16]}.so"
    if not file.exists():
        file.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=file.parent) as folder:
            new = Path(folder) / file.name
            command = [compiler, *flags, *map(str, sources), "-o", str(new)]
            subprocess.run(command, capture_output=True, check=True, timeout=MOST_SECONDS)
            new.replace(file)
    return file


def _folder() -> Path:
    """Where torch, too, keeps what it compiled."""
    given = os.environ.get("TORCH_EXTENSIONS_DIR")
    cache = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(given) if given else Path(cache) / "torch_extensions"

"""C++ of this package, compiled at its first use on a machine and kept for the next.

A compiled file lies where torch keeps its C++ extensions: in `TORCH_EXTENSIONS_DIR`, or else in the
user's cache. Its name tells the sources, torch's version, the compiler and the kind of processor,
so another of these compiles anew.
"""

from __future__ import annotations

import contextlib
import functools
import hashlib
import os
import platform
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import torch

from accuracy_booster.progress import note

HERE = Path(__file__).parent
OPTIONS = ("-O3", "-shared", "-fPIC", "-std=c++20", "-fopenmp", "-ffp-contract=fast")
INSTRUCTIONS = {  # by what torch calls the instructions that it uses on this processor
    "AVX2": ("-mavx2", "-mfma"),
    "AVX512": (
        *("-mavx2", "-mfma", "-mavx512f", "-mavx512vl", "-mavx512bw", "-mavx512dq"),
        "-mprefer-vector-width=512",
    ),
}
MOST_SECONDS = 300.0  # for the compiler
SLOW = "compiling the convolution kernel for this machine, once (about 15 s)"


class NotCompiled(RuntimeError):
    """This machine cannot compile or run C++ of this package; the message says why."""


@functools.cache
def load(name: str) -> str | None:
    """Compile a source of this folder that defines operators of torch, and load them.

    It must be one for processors with AVX2.

    Returns:
        None, or why this process goes without them, in a few words.
    """
    if instructions() not in INSTRUCTIONS:
        machine = f"{platform.machine()} with {instructions()}"
        return f"the kernel needs a processor with AVX2, and this is {machine}"
    try:
        torch.ops.load_library(str(compiled(name, with_torch=True)))
    except (NotCompiled, OSError, RuntimeError) as error:
        return str(error).splitlines()[0]
    return None


def instructions() -> str:
    """What torch calls the vector instructions of this processor: "AVX2", "AVX512", ..."""
    return torch.backends.cpu.get_cpu_capability()


def compiled(*names: str, with_torch: bool = False) -> Path:
    """The shared library of some sources of this folder.

    Args:
        with_torch: whether they include headers of torch, with which compiling takes longer.

    Raises:
        NotCompiled: where that cannot be done.
    """
    if not sys.platform.startswith("linux"):
        raise NotCompiled(f"C++ is compiled on Linux alone, and this is {sys.platform}")
    if with_torch and not torch.backends.openmp.is_available():
        raise NotCompiled("the kernel needs a torch with OpenMP")
    compiler = os.environ.get("CXX", "g++").split()
    version = _version(compiler)
    before = [*OPTIONS, *INSTRUCTIONS.get(instructions(), ())]
    after = []
    if with_torch:
        before += _headers()
        after = [f"-L{Path(torch.__file__).parent / 'lib'}", "-ltorch_cpu", "-lc10"]
    sources = [HERE / name for name in names]
    read = [*sources, *sorted(HERE.glob("*.h"))]
    told = [torch.__version__, version, *before, *(source.read_text() for source in read)]
    key = hashlib.sha256("\n".join(told).encode()).hexdigest()[:16]
    for folder in _folders():
        target = folder / f"{sources[0].stem}_{key}.so"
        with contextlib.suppress(OSError):
            folder.mkdir(parents=True, exist_ok=True, mode=0o700)
            if folder.stat().st_uid != os.getuid():
                continue  # somebody else could put code there
            if not _is_whole(target):
                if with_torch:
                    note(SLOW)
                _compile([*compiler, *before, *map(str, sources)], after, target)
            return target
    raise NotCompiled(f"none of these folders can be written: {', '.join(map(str, _folders()))}")


def _compile(command: list[str], libraries: list[str], target: Path) -> None:
    """Write `target` whole, or not at all; several processes may do so at the same time."""
    descriptor, draft = tempfile.mkstemp(dir=target.parent, suffix=".so")
    os.close(descriptor)
    try:
        command = [*command, "-o", draft, *libraries]
        done = subprocess.run(
            command, capture_output=True, text=True, check=False, timeout=MOST_SECONDS
        )
        if done.returncode:
            lines = done.stderr.splitlines()
            lines = [line for line in lines if "error" in line] or lines or ["no message"]
            raise NotCompiled(f"{command[0]} cannot compile {target.stem}: {lines[0][:200]}")
        _mark_of(target).write_text(_digest(Path(draft)))
        os.replace(draft, target)
    except subprocess.TimeoutExpired as error:
        raise NotCompiled(f"{command[0]} took more than {MOST_SECONDS:.0f} s") from error
    finally:
        Path(draft).unlink(missing_ok=True)


def _is_whole(target: Path) -> bool:
    """Whether a compiled file is as it was written; loading a damaged one ends the process."""
    with contextlib.suppress(OSError):
        return _mark_of(target).read_text() == _digest(target)
    return False


def _mark_of(target: Path) -> Path:
    return target.with_suffix(".sha256")


def _digest(file: Path) -> str:
    return hashlib.sha256(file.read_bytes()).hexdigest()


def _version(compiler: list[str]) -> str:
    if not compiler or shutil.which(compiler[0]) is None:
        looked = " ".join(compiler)
        raise NotCompiled(f"no C++ compiler was found (looked for {looked!r}); install g++")
    done = subprocess.run([*compiler, "--version"], capture_output=True, text=True, check=False)
    return done.stdout.partition("\n")[0]


def _headers() -> list[str]:
    abi = int(torch.compiled_with_cxx11_abi())
    include = Path(torch.__file__).parent / "include"
    return [
        *("-DAT_PARALLEL_OPENMP=1", f"-D_GLIBCXX_USE_CXX11_ABI={abi}", f"-I{include}"),
        f"-I{include / 'torch/csrc/api/include'}",
    ]


def _folders() -> Iterator[Path]:
    """Where a compiled file may lie, the best place first."""
    given = os.environ.get("TORCH_EXTENSIONS_DIR")
    cache = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    yield Path(given or Path(cache) / "torch_extensions") / "accuracy_booster"
    yield Path(tempfile.gettempdir()) / f"accuracy_booster_{os.getuid()}"

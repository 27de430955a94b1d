"""C++ of this package, compiled at its first use on a machine and kept for the next.

The compiled file lies where torch keeps its C++ extensions: in `TORCH_EXTENSIONS_DIR`, or else in
the user's cache. Its name tells the source, torch's version, the compiler and the kind of
processor, so another of these compiles anew.
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

FLAGS = {  # by what torch calls the processor's instructions
    "AVX2": ("-mavx2", "-mfma"),
    "AVX512": ("-mavx2", "-mfma", "-mavx512f", "-mavx512vl", "-mavx512bw", "-mavx512dq"),
}
COMPILING = "compiling the convolution kernel for this machine, once (about 15 s)"


class NotCompiled(RuntimeError):
    """This machine cannot compile or run C++ of this package; the message says why."""


@functools.cache
def load(name: str) -> str | None:
    """Compile `name` of this folder, if that was not done before, and load its operators.

    Returns:
        None, or why this process goes without them, in a few words.
    """
    try:
        torch.ops.load_library(str(_compiled(Path(__file__).with_name(name))))
    except (NotCompiled, OSError, RuntimeError) as error:
        return str(error).splitlines()[0]
    return None


def instructions() -> str:
    """What torch calls the vector instructions of this processor: "AVX2", "AVX512", ..."""
    return torch.backends.cpu.get_cpu_capability()


def _compiled(source: Path) -> Path:
    """The compiled file of a source.

    Raises:
        NotCompiled: where that cannot be done.
    """
    if not sys.platform.startswith("linux") or instructions() not in FLAGS:
        raise NotCompiled(
            f"the kernel needs Linux and a processor with AVX2, and this is {sys.platform} on "
            f"{platform.machine()} with {instructions()}"
        )
    if not torch.backends.openmp.is_available():
        raise NotCompiled("the kernel needs a torch with OpenMP")
    compiler = os.environ.get("CXX", "g++")
    version = _version(compiler)
    flags = [*FLAGS[instructions()], *_flags()]
    told = [source.read_text(), torch.__version__, version, " ".join(flags)]
    key = hashlib.sha256("\n".join(told).encode()).hexdigest()[:16]
    for folder in _folders():
        target = folder / f"{source.stem}_{key}.so"
        with contextlib.suppress(OSError):
            folder.mkdir(parents=True, exist_ok=True, mode=0o700)
            if folder.stat().st_uid != os.getuid():
                continue  # somebody else could put code there
            if not target.exists():
                _compile(compiler, flags, source, target)
            return target
    raise NotCompiled(f"none of these folders can be written: {', '.join(map(str, _folders()))}")


def _compile(compiler: str, flags: list[str], source: Path, target: Path) -> None:
    """Write `target` whole, or not at all; several processes may do so at the same time."""
    descriptor, draft = tempfile.mkstemp(dir=target.parent, suffix=".so")
    os.close(descriptor)
    try:
        note(COMPILING)
        command = [*compiler.split(), *flags, str(source), "-o", draft, *_libraries()]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode:
            lines = [line for line in done.stderr.splitlines() if "error" in line] or ["no message"]
            raise NotCompiled(f"{compiler} cannot compile {source.name}: {lines[0][:200]}")
        os.replace(draft, target)
    finally:
        Path(draft).unlink(missing_ok=True)


def _version(compiler: str) -> str:
    words = compiler.split()
    if not words or shutil.which(words[0]) is None:
        raise NotCompiled(f"no C++ compiler was found (looked for {compiler}); install g++")
    done = subprocess.run([*words, "--version"], capture_output=True, text=True, check=False)
    return done.stdout.partition("\n")[0]


def _flags() -> list[str]:
    abi = int(torch.compiled_with_cxx11_abi())
    own = ["-O3", "-shared", "-fPIC", "-std=c++20", "-fopenmp", "-ffp-contract=fast"]
    own += ["-DAT_PARALLEL_OPENMP=1", f"-D_GLIBCXX_USE_CXX11_ABI={abi}"]
    include = Path(torch.__file__).parent / "include"
    return [*own, f"-I{include}", f"-I{include / 'torch/csrc/api/include'}"]


def _libraries() -> list[str]:
    folder = Path(torch.__file__).parent / "lib"
    return [f"-L{folder}", "-ltorch_cpu", "-lc10"]


def _folders() -> Iterator[Path]:
    """Where the compiled file may lie, the best place first."""
    given = os.environ.get("TORCH_EXTENSIONS_DIR")
    cache = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    yield Path(given or Path(cache) / "torch_extensions") / "accuracy_booster"
    yield Path(tempfile.gettempdir()) / f"accuracy_booster_{os.getuid()}"

"""What comes from outside (files, names, numbers, signals) runs no code and does no other harm."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import torch

import accuracy_booster as ab
from accuracy_booster.ops.precision import bf16_works

PACKAGE = str(Path(ab.__file__).parents[1])
SITE = str(Path(torch.__file__).parents[1])
# modules that would be imported from the current directory if it were looked at
TRAPS = ("torch", "numpy", "yaml", "rich", "subprocess", "typing_extensions", "sitecustomize")


def python(*words, cwd=None, executable=sys.executable, **environment):
    """A process of its own, on this package."""
    return subprocess.run(
        [executable, *map(str, words)],
        capture_output=True,
        text=True,
        check=False,
        cwd=cwd,
        env={**os.environ, "PYTHONPATH": PACKAGE, "OMP_NUM_THREADS": "1", **environment},
        timeout=120,
    )


def set_traps(folder):
    for name in TRAPS:
        (folder / f"{name}.py").write_text(
            f"open({str(folder / 'SPRUNG')!r}, 'a').write('{name} ')"
        )
    return folder


# --- 1: nothing is imported from the current directory


def test_the_bf16_probe_imports_nothing_from_the_current_directory(tmp_path):
    code = (
        "import os, sys, torch\n"
        "from accuracy_booster.ops.precision import bf16_works\n"
        "os.chdir(sys.argv[1])\n"
        "print(bf16_works('cpu'))"
    )
    done = python("-c", code, set_traps(tmp_path), cwd=Path(PACKAGE))
    assert done.stdout.strip() == str(bf16_works("cpu")), done.stderr
    assert not (tmp_path / "SPRUNG").exists()


def test_the_bf16_probe_works_where_torch_comes_from_pythonpath(tmp_path):
    """Python without this environment's packages finds torch by PYTHONPATH alone."""
    bare = getattr(sys, "_base_executable", sys.executable)
    code = "from accuracy_booster.ops.precision import bf16_works; print(bf16_works('cpu'))"
    path = os.pathsep.join((PACKAGE, SITE))
    done = python("-c", code, executable=bare, cwd=tmp_path, PYTHONPATH=path)
    assert done.stdout.strip() == str(bf16_works("cpu")), done.stderr


def test_python_m_imports_nothing_from_the_current_directory(tmp_path):
    done = python("-m", "accuracy_booster", "plan", "resnet8", cwd=set_traps(tmp_path))
    assert done.returncode == 0, done.stderr
    # Python itself looks for sitecustomize before the package is there
    sprung = tmp_path / "SPRUNG"
    assert not sprung.exists() or sprung.read_text().split() == ["sitecustomize"]


def test_python_m_still_runs_a_checkout_from_within_it():
    done = python("-m", "accuracy_booster", "--version", cwd=PACKAGE, PYTHONPATH="")
    assert done.stdout.strip() == f"accuracy-booster {ab.__version__}", done.stderr

"""The probe of bfloat16, which runs in a process of its own."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import torch
from support.hostile import (
    PACKAGE,
    python,
    set_traps,
)

from accuracy_booster.ops.precision import bf16_works

SITE = str(Path(torch.__file__).parents[1])


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

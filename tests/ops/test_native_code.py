"""C++ is compiled once, and a machine that cannot do so says why."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys

import pytest
import torch

from accuracy_booster.ops import native_code, packed_conv

PROBE = """
import sys, torch
from torch import nn
from accuracy_booster.ops import native_code, packed_conv
print(native_code.load(packed_conv.SOURCE))
conv = nn.Conv2d(4, 16, 3, padding=1).requires_grad_(False)
x = torch.randn(1, 4, 5, 5)
y = torch.ops.accuracy_booster.packed_conv(
    *(x, packed_conv.pack(conv.weight, 1), conv.bias, 16, (3, 3), (1, 1), (1, 1), (1, 1), 1),
    *(None, None, None, None, None, None, [56, 1]),
)
assert (y - conv(x)).abs().max() < 1e-5
"""
compiles = pytest.mark.skipif(
    native_code.load(packed_conv.SOURCE) is not None, reason="no compiler or no AVX2 here"
)


def probe(**environment):
    """What a new process says of the kernel, and what it printed on stderr."""
    command = [sys.executable, "-c", PROBE]
    given = {**os.environ, **{k: str(v) for k, v in environment.items()}}
    done = subprocess.run(command, capture_output=True, text=True, env=given, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip(), done.stderr


@pytest.fixture
def compiled(tmp_path):
    """A folder with the compiled kernel of this process."""
    (here,) = [f for f in native_code._folders() if list(f.glob("packed_conv_*.so"))][:1]
    shutil.copytree(here, tmp_path / "accuracy_booster")
    return tmp_path


@compiles
def test_what_is_compiled_is_used_again(compiled):
    said, errors = probe(TORCH_EXTENSIONS_DIR=compiled)
    assert said == "None"
    assert "compiling" not in errors


def test_without_a_compiler_the_reference_computes(tmp_path):
    said, _ = probe(CXX="no-such-compiler", TORCH_EXTENSIONS_DIR=tmp_path)
    assert said == "no C++ compiler was found (looked for no-such-compiler); install g++"


def test_a_compiler_that_fails_is_told(tmp_path):
    failing = tmp_path / "failing"
    failing.write_text("#!/bin/sh\necho 'error: it is broken' >&2\ntest \"$1\" = --version\n")
    failing.chmod(0o755)
    said, _ = probe(CXX=failing, TORCH_EXTENSIONS_DIR=tmp_path)
    assert said == f"{failing} cannot compile packed_conv.cpp: error: it is broken"
    assert not list(tmp_path.glob("**/*.so"))


@pytest.mark.parametrize("capability", ["DEFAULT", "SVE256"])
def test_other_processors_are_told(monkeypatch, capability):
    monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: capability)
    with pytest.raises(native_code.NotCompiled, match=f"AVX2, and this is .* with {capability}"):
        native_code._compiled(native_code.Path(native_code.__file__))


@compiles
def test_a_folder_of_somebody_else_is_not_used(compiled, monkeypatch, tmp_path):
    monkeypatch.setattr(native_code, "_folders", lambda: iter([compiled / "accuracy_booster"]))
    monkeypatch.setattr(native_code.os, "getuid", lambda: os.stat(compiled).st_uid + 1)
    source = native_code.Path(native_code.__file__).with_name(packed_conv.SOURCE)
    with pytest.raises(native_code.NotCompiled, match="none of these folders"):
        native_code._compiled(source)

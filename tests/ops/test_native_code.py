"""C++ is compiled once and kept; a machine that cannot do so says why, and goes without."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys

import pytest
import torch

from accuracy_booster.ops import native, native_code, packed_conv

PROBE = """
import sys, torch
from torch import nn
from accuracy_booster.ops import native_code, packed_conv
print(native_code.load(packed_conv.SOURCE))
conv = nn.Conv2d(4, 16, 3, padding=1).requires_grad_(False)
x = torch.randn(1, 4, 5, 5)
y = torch.ops.accuracy_booster.packed_conv(
    *(x, packed_conv.pack(conv.weight, 1), conv.bias, 16, (3, 3), (1, 1), (1, 1), (1, 1), 1),
    *(None, None, None, None, None, None, [56, 1, 0]),
)
assert (y - conv(x)).abs().max() < 1e-5
"""
needs_compiler = pytest.mark.skipif(shutil.which("g++") is None, reason="there is no g++")
needs_kernel = pytest.mark.skipif(
    native_code.load(packed_conv.SOURCE) is not None, reason="no compiler or no AVX2 here"
)


@pytest.fixture
def cache(monkeypatch, tmp_path):
    """A cache of its own, and a process that has not tried yet."""
    monkeypatch.setenv("TORCH_EXTENSIONS_DIR", str(tmp_path / "cache"))
    monkeypatch.delenv("CXX", raising=False)
    native._loaded.cache_clear()
    yield tmp_path / "cache" / "accuracy_booster"
    native._loaded.cache_clear()


@pytest.fixture
def source(cache, monkeypatch, tmp_path):
    """A source that takes no time to compile."""
    (tmp_path / "short.cpp").write_text('extern "C" int answer() { return 42; }\n')
    monkeypatch.setattr(native_code, "HERE", tmp_path)
    monkeypatch.setattr(native, "SOURCES", ("short.cpp",))
    return tmp_path / "short.cpp"


@needs_compiler
def test_it_is_compiled_once_for_each_version_of_the_sources(source, cache, monkeypatch):
    assert native.library().answer() == 42
    assert native.why_no_library() == ""
    (file,) = cache.glob("*.so")
    native._loaded.cache_clear()
    with monkeypatch.context() as patch:
        patch.setattr(native_code, "_compile", lambda *_: pytest.fail("compiled again"))
        assert native.library() is not None
    source.write_text('extern "C" int answer() { return 43; }\n')
    native._loaded.cache_clear()
    assert native.library().answer() == 43
    assert len(list(cache.glob("*.so"))) == 2
    assert file.exists()


@needs_compiler
@pytest.mark.parametrize("size", [0, 100, 9000])
def test_a_damaged_file_is_compiled_anew(source, cache, size):
    file = native_code.compiled("short.cpp")
    whole = file.read_bytes()
    assert len(whole) > size
    file.write_bytes(whole[:size])
    assert native_code.compiled("short.cpp") == file
    assert native.library().answer() == 42


@needs_compiler
def test_the_compilers_error_is_the_reason(source, cache):
    source.write_text("int answer( { return 42; }\n")
    assert native.library() is None
    assert native.why_no_library().startswith("g++ cannot compile short")
    assert "short.cpp:1" in native.why_no_library()
    assert not list(cache.iterdir())


def test_without_a_compiler(cache, monkeypatch):
    monkeypatch.setenv("CXX", "no-such-compiler")
    assert native.library() is None
    reason = "no C++ compiler was found (looked for 'no-such-compiler'); install g++"
    assert native.why_no_library() == reason


@needs_compiler
def test_another_folder_where_the_first_cannot_be_written(source, cache, monkeypatch, tmp_path):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("TORCH_EXTENSIONS_DIR", str(tmp_path / "file" / "cache"))
    monkeypatch.setattr(native_code.tempfile, "gettempdir", lambda: str(tmp_path / "file"))
    assert native.library() is None
    assert native.why_no_library().startswith("none of these folders can be written: ")
    monkeypatch.setattr(native_code.tempfile, "gettempdir", lambda: str(tmp_path))
    native._loaded.cache_clear()
    assert native.library().answer() == 42


@needs_compiler
def test_a_folder_of_somebody_else_is_not_used(source, cache, monkeypatch, tmp_path):
    monkeypatch.setattr(native_code.os, "getuid", lambda: os.stat(tmp_path).st_uid + 1)
    monkeypatch.setattr(native_code.tempfile, "gettempdir", lambda: str(tmp_path))
    assert native.library() is None
    assert native.why_no_library().startswith("none of these folders can be written: ")


def test_other_systems_and_processors(cache, monkeypatch):
    monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: "SVE256")
    assert "AVX2, and this is" in native_code.load.__wrapped__(packed_conv.SOURCE)
    monkeypatch.setattr(sys, "platform", "win32")
    assert native.library() is None
    assert native.why_no_library() == "C++ is compiled on Linux alone, and this is win32"


def probe(**environment):
    """What a new process says of the kernel, and what it printed on stderr."""
    command = [sys.executable, "-c", PROBE]
    given = {**os.environ, **{k: str(v) for k, v in environment.items()}}
    done = subprocess.run(command, capture_output=True, text=True, env=given, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip(), done.stderr


@needs_kernel
def test_a_new_process_uses_what_is_compiled(tmp_path):
    (here,) = [f for f in native_code._folders() if list(f.glob("packed_conv_*.so"))][:1]
    shutil.copytree(here, tmp_path / "accuracy_booster")
    said, errors = probe(TORCH_EXTENSIONS_DIR=tmp_path)
    assert said == "None"
    assert "compiling" not in errors


def test_without_a_compiler_the_reference_computes(tmp_path):
    said, _ = probe(CXX="no-such-compiler", TORCH_EXTENSIONS_DIR=tmp_path)
    assert said == "no C++ compiler was found (looked for 'no-such-compiler'); install g++"

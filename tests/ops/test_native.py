"""The C++ is compiled once and kept; where that is impossible there is a reason, and no error."""

from __future__ import annotations

import shutil
import subprocess
import sys

import pytest

from accuracy_booster.ops import native

needs_compiler = pytest.mark.skipif(shutil.which("g++") is None, reason="there is no g++")


@pytest.fixture(autouse=True)
def _fresh(monkeypatch, tmp_path):
    """A cache of its own, and a process that has not tried yet."""
    monkeypatch.setenv("TORCH_EXTENSIONS_DIR", str(tmp_path / "cache"))
    monkeypatch.delenv("CXX", raising=False)
    native._loaded.cache_clear()
    yield
    native._loaded.cache_clear()


@pytest.fixture
def _short(monkeypatch, tmp_path):
    """A source that takes no time to compile."""
    (tmp_path / "short.cpp").write_text('extern "C" int answer() { return 42; }\n')
    monkeypatch.setattr(native, "HERE", tmp_path)
    monkeypatch.setattr(native, "SOURCES", ("short.cpp",))


@needs_compiler
@pytest.mark.usefixtures("_short")
def test_it_is_compiled_once_for_each_version_of_the_sources(monkeypatch, tmp_path):
    library = native.library()
    assert library is not None
    assert library.answer() == 42
    assert native.why_no_library() == ""
    (file,) = (tmp_path / "cache").iterdir()
    native._loaded.cache_clear()
    with monkeypatch.context() as patch:
        patch.setattr(subprocess, "run", lambda *_, **__: pytest.fail("compiled again"))
        assert native.library() is not None
    (tmp_path / "short.cpp").write_text('extern "C" int answer() { return 43; }\n')
    native._loaded.cache_clear()
    assert native.library().answer() == 43
    assert len(list((tmp_path / "cache").iterdir())) == 2
    assert file.exists()


@needs_compiler
@pytest.mark.usefixtures("_short")
def test_the_compilers_error_is_the_reason(tmp_path):
    (tmp_path / "short.cpp").write_text("int answer( { return 42; }\n")
    assert native.library() is None
    assert "short.cpp:1" in native.why_no_library()
    assert not list((tmp_path / "cache").iterdir())


def test_without_a_compiler(monkeypatch):
    monkeypatch.setattr(shutil, "which", lambda name: None)
    assert native.library() is None
    assert native.why_no_library() == "there is no g++ (CXX names another compiler)"


@needs_compiler
@pytest.mark.usefixtures("_short")
def test_a_folder_that_cannot_be_written(monkeypatch, tmp_path):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("TORCH_EXTENSIONS_DIR", str(tmp_path / "file" / "cache"))
    assert native.library() is None
    assert "NotADirectoryError" in native.why_no_library()


def test_other_systems(monkeypatch):
    monkeypatch.setattr(sys, "platform", "win32")
    assert native.library() is None
    assert "win32" in native.why_no_library()

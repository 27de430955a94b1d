"""Errors and warnings of the command line: one line each, and the exit code."""

from __future__ import annotations

import warnings

import pytest
import torch
from support.hostile import (
    EVIL,
    harmless,
)

from accuracy_booster.cli import main


def test_an_error_line_is_cut(monkeypatch, capsys):
    def fail(*_):
        raise ValueError("begin " + "x" * 10**6 + " end")

    monkeypatch.setattr("accuracy_booster.cli.program.run", fail)
    assert main([]) == 2
    err = capsys.readouterr().err
    assert err.startswith("accuracy-booster: error: begin xxx")
    assert err.endswith("x end\n")
    assert len(err) < 2100


NO_MEMORY = [
    MemoryError(),
    MemoryError("Unable to allocate 3.00 TiB for an array"),
    torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 GiB."),
    RuntimeError("[enforce fail at alloc_cpu.cpp:1] DefaultCPUAllocator: can't allocate memory"),
    RuntimeError("DefaultCPUAllocator: not enough memory: you tried to allocate 3 bytes."),
    RuntimeError("Storage size calculation overflowed with sizes=[9, 9]"),
    RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"),
    OSError(12, "Cannot allocate memory"),
]


@pytest.mark.parametrize("error", NO_MEMORY, ids=lambda e: str(e)[:30])
@pytest.mark.parametrize("wrapped", [False, True])
def test_out_of_memory_is_one_line_with_the_remedy(error, wrapped, monkeypatch, capsys):
    def fail(*_):
        if not wrapped:
            raise error
        raise ValueError("the network cannot take this") from error

    monkeypatch.setattr("accuracy_booster.cli.program.run", fail)
    assert main([]) == 1
    err = capsys.readouterr().err
    assert err.startswith("accuracy-booster: error: out of memory (")
    assert err.count("\n") == 1
    for word in ("smaller batch", "--accumulate", "image_size"):
        assert word in err


def test_a_real_allocation_that_fails(capsys):
    words = ["--batch_sizes", "100000000000", "--compile", "off", "--blocks", "none"]
    assert main(["bench", "resnet8", *words]) == 1
    assert "out of memory" in capsys.readouterr().err


@pytest.mark.parametrize("name", ["torch", "accuracy_booster.gone", "torch.gone"])
def test_a_package_that_is_not_installed_is_named(monkeypatch, capsys, name):
    """A module that is missing in a package that is there is a fault, which needs its traceback."""

    def fail(*_):
        raise ModuleNotFoundError(f"No module named {name!r}", name=name)

    monkeypatch.setattr("accuracy_booster.cli.program.run", fail)
    if name != "torch":
        with pytest.raises(ModuleNotFoundError):
            main([])
        return
    assert main([]) == 1
    err = capsys.readouterr().err
    assert "error: this takes torch, which is not installed; pip install accuracy-booster" in err
    assert err.count("\n") == 1


def test_other_errors_of_ours_still_show_their_traceback(monkeypatch):
    def fail(*_):
        raise RuntimeError("a defect")

    monkeypatch.setattr("accuracy_booster.cli.program.run", fail)
    with pytest.raises(RuntimeError, match="a defect"):
        main([])


def test_warnings_of_the_command_are_one_harmless_line(monkeypatch, capsys):
    def warn(*_):
        warnings.warn(f"x {EVIL}\nforged {'y' * 10**6}", stacklevel=1)
        return 0

    monkeypatch.setattr("accuracy_booster.cli.program.run", warn)
    assert main([]) == 0
    err = capsys.readouterr().err
    assert err.startswith("accuracy-booster: warning: x a\\x1b[31m")
    assert (err.count("\n"), harmless(err)) == (1, True)
    assert len(err) < 2100


def test_a_warning_is_told_once_whatever_changes_the_filters(monkeypatch, capsys):
    def warn(*_):
        for text in ("first", "second", "first"):
            with warnings.catch_warnings():  # as libraries do it; Python then forgets what it told
                warnings.simplefilter("always")
                warnings.warn(text, stacklevel=2)
        return 0

    monkeypatch.setattr("accuracy_booster.cli.program.run", warn)
    for _ in range(2):  # each command tells its own
        assert main([]) == 0
        told = capsys.readouterr().err.splitlines()
        assert told == [f"accuracy-booster: warning: {text}" for text in ("first", "second")]


def test_a_torchvision_of_another_build_is_told(monkeypatch, capsys):
    """The words are those of torchvision 0.28 of PyPI on torch 2.13 for the CPU."""

    def fail(*_):
        raise RuntimeError("operator torchvision::nms does not exist")

    monkeypatch.setattr("accuracy_booster.cli.program.run", fail)
    assert main([]) == 1
    err = capsys.readouterr().err
    assert "torch and torchvision do not fit together" in err
    assert "docs/installing.md" in err
    assert err.count("\n") == 1

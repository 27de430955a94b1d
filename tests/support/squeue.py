"""A stand-in for Slurm's `squeue`, for machines without Slurm."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

import pytest


def fake_squeue(folder: Path, states: Mapping[str, str], patch: pytest.MonkeyPatch) -> None:
    """Put a program `squeue` first on the PATH, which prints these states of jobs."""
    lines = "\n".join(f"{job}|{state}" for job, state in states.items())
    folder.mkdir(exist_ok=True)
    program = folder / "squeue"
    program.write_text(f"#!/bin/sh\ncat <<'END'\n{lines}\nEND\n")
    program.chmod(0o755)
    patch.setenv("PATH", f"{folder}{os.pathsep}{os.environ['PATH']}")

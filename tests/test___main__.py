"""`python -m accuracy_booster`."""

from __future__ import annotations

import subprocess
import sys

from support.hostile import (
    PACKAGE,
    python,
    set_traps,
)

import accuracy_booster as ab


def test_python_m_imports_nothing_from_the_current_directory(tmp_path):
    done = python("-m", "accuracy_booster", "plan", "resnet8", cwd=set_traps(tmp_path))
    assert done.returncode == 0, done.stderr
    # Python itself looks for sitecustomize before the package is there
    sprung = tmp_path / "SPRUNG"
    assert not sprung.exists() or sprung.read_text().split() == ["sitecustomize"]


def test_python_m_still_runs_a_checkout_from_within_it():
    done = python("-m", "accuracy_booster", "--version", cwd=PACKAGE, PYTHONPATH="")
    assert done.stdout.strip() == f"accuracy-booster {ab.__version__}", done.stderr


def test_the_command_itself():
    """Installed, in a process of its own: `python -m` and the exit code."""
    done = subprocess.run(
        [sys.executable, "-m", "accuracy_booster", "train", "--model", "resnet57"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 2
    assert done.stderr.startswith("accuracy-booster: error: unknown model")
    version = subprocess.run(
        [sys.executable, "-m", "accuracy_booster", "--version"],
        capture_output=True,
        text=True,
        check=True,
    )
    assert version.stdout.strip() == f"accuracy-booster {ab.__version__}"

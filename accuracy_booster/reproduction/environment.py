"""The machine, the software and the commit that a run was made with, for its result file."""

from __future__ import annotations

import platform
import subprocess
from collections.abc import Mapping
from datetime import datetime, timezone
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch

from accuracy_booster.analysis.measuring import processor
from accuracy_booster.reproduction.specs import CODE_VERSION
from accuracy_booster.version import __version__

PACKAGES = ("torch", "torchvision", "timm", "accelerate", "numpy")


def this_environment(*, begun: float, more: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """The `about` entry of a result that this process made.

    Args:
        begun: when the run began, in seconds since the epoch (`time.time()`).
        more: further entries.
    """
    cuda = torch.cuda.is_available()
    return {
        "code": {"version": CODE_VERSION, "package": __version__, "commit": _commit()},
        "packages": {name: version(name) for name in PACKAGES},
        "python": platform.python_version(),
        "processor": torch.cuda.get_device_name() if cuda else processor(),
        "instructions": torch.backends.cpu.get_cpu_capability(),
        "threads": torch.get_num_threads(),
        "began": _utc(begun),
        "ended": _utc(),
        **(more or {}),
    }


def _utc(moment: float | None = None) -> str:
    """A time in UTC, such as "2026-01-02T03:04:05Z"; by default now."""
    now = datetime.now(timezone.utc)
    when = now if moment is None else datetime.fromtimestamp(moment, timezone.utc)
    return when.strftime("%Y-%m-%dT%H:%M:%SZ")


def _commit() -> str | None:
    """The commit of the checkout that holds this file; with -dirty if tracked files were changed.

    None if this file is not tracked by git: a package that is installed inside some checkout does
    not have that checkout's commit.
    """
    here = Path(__file__)
    tracked = _git(here.parent, "ls-files", "--error-unmatch", here.name)
    if not tracked:
        return None
    return _git(here.parent, "describe", "--always", "--dirty", "--abbrev=12", "--match=")


def _git(folder: Path, *words: str) -> str | None:
    """What a git command prints in a folder; None if git is not installed, or fails."""
    try:
        done = subprocess.run(
            ["git", *words], cwd=folder, capture_output=True, text=True, timeout=10
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.strip() or None if done.returncode == 0 else None

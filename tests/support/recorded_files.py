"""Records of real files: what a checkpoint or a data set looks like, without its contents."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest


def recorded(name: str) -> Any:
    """The record of this name in `support/recorded`."""
    return json.loads((Path(__file__).parent / "recorded" / f"{name}.json").read_text())


def real(shared: Path, name: str) -> Path:
    """A file or folder of the real data; the test is skipped if it is absent."""
    path = shared / name
    if not path.exists():
        pytest.skip(f"needs {path}, which is absent")
    return path

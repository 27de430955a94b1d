"""Files as an older version wrote them, or as somebody changed them."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from safetensors.torch import load_file, save_file


def edit_json(path: Path, change: Callable[[dict[str, Any]], Any]) -> dict[str, Any]:
    """Change a JSON file in place, without the hash that tells a change; returns its content."""
    content = json.loads(path.read_text())
    content.pop("sha256", None)
    change(content)
    path.write_text(json.dumps(content))
    return content


def without_hash(path: Path) -> None:
    """Make a safetensors file one that holds tensors alone."""
    save_file(load_file(path), path)


# what an older version's run.json has not
NEW_IN_RUNS = ("id", "fingerprint", "ended", "files", "numerics")


def make_run_old(run: Path, *more: str) -> None:
    """Make a finished run one of a version that noted no identity and no hashes."""

    def change(info: dict[str, Any]) -> None:
        for name in (*NEW_IN_RUNS, *more):
            info.pop(name, None)

    edit_json(run / "run.json", change)
    without_hash(run / "model.safetensors")

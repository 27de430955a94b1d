"""A comparison's directory: what it was begun with, its runs, its results and its report.

compare.json    the network, blocks, seeds and options: `compare --resume` goes on with them
results.json    the rows, and which runs they are of
report.html     the page
BLOCK-sSEED/    a run's directory
"""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from accuracy_booster.files import check_folder, check_no_others, partial_name, read_json
from accuracy_booster.training.lock import LOCK, locked
from accuracy_booster.training.run_files import is_run, remove_run

BEGUN, RESULTS, REPORT = "compare.json", "results.json", "report.html"


def read_begun(where: Path) -> dict[str, Any]:
    """What the comparison in a directory was begun with."""
    try:
        begun = read_json(where / BEGUN)
        kinds = {"model": str, "blocks": list, "seeds": int, "options": dict}
        for name, kind in kinds.items():
            if not isinstance(begun.get(name), kind):
                raise ValueError(f"{BEGUN} is damaged: it names no {name}")
        if not all(isinstance(block, str) for block in begun["blocks"]):
            raise ValueError(f"{BEGUN} is damaged: its blocks are not texts")
        return begun
    except (OSError, ValueError) as e:
        found = e if (where / BEGUN).exists() else f"no {BEGUN}"
        raise ValueError(f"{where} holds no comparison to go on with ({found})") from e


def check_place_of(where: Path, overwrite: bool) -> None:
    """Raise ValueError where no comparison may be written: over another one, or among files."""
    check_folder(where)
    if not where.is_dir():
        return
    if (where / BEGUN).exists():
        if not overwrite:
            raise ValueError(
                f"{where} already holds a comparison; go on with it by --resume {where}, or choose "
                "another --output, or --overwrite"
            )
        read_begun(where)
    else:
        check_no_others(where, [partial_name(BEGUN)], "comparison")


def remove(where: Path, keep: Sequence[str]) -> None:
    """Remove the runs and the report of the comparison in a directory, and nothing else.

    Its compare.json is replaced later, so that there is a comparison at every instant. Runs whose
    names are to be kept are overwritten one by one, beside whatever else lies in their folders.
    """
    if not (where / BEGUN).exists():
        return
    begun = read_begun(where)
    first = begun["options"].get("seed", 0)
    named = [f"{f}-s{first + i}" for f in run_names(begun["blocks"]) for i in range(begun["seeds"])]
    for name in begun.get("runs", named):
        folder = where / Path(str(name)).name
        if folder.name not in keep and is_run(folder):
            with locked(folder):  # a training that goes on there is not disturbed
                remove_run(folder)
            (folder / LOCK).unlink(missing_ok=True)
            with contextlib.suppress(OSError):  # not empty: somebody else's files stay
                folder.rmdir()
    for name in (REPORT, RESULTS):
        (where / name).unlink(missing_ok=True)


def run_names(blocks: Sequence[str]) -> list[str]:
    """What the directories of the blocks' runs are called, without their seeds."""
    return [b if b.isidentifier() else f"recipe{i}" for i, b in enumerate(blocks, start=1)]

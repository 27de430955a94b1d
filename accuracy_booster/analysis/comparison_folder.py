"""The files in a comparison's directory, for `ab.compare`.

compare.json    the network, blocks, seeds and options, which `compare --resume` reads
results.json    the rows, and which runs they are of
report.html     the page
BLOCK-sSEED/    a run's directory
"""

from __future__ import annotations

import contextlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from accuracy_booster.files import check_folder, check_no_others, partial_name, read_json
from accuracy_booster.training.lock import LOCK, locked
from accuracy_booster.training.run_files import is_run, remove_run

BEGUN, RESULTS, REPORT = "compare.json", "results.json", "report.html"


def read_begun(folder: Path) -> dict[str, Any]:
    """The content of a folder's compare.json.

    Raises:
        ValueError: if there is none, or if it is damaged.
    """
    try:
        begun = read_json(folder / BEGUN)
        kinds = {"model": str, "blocks": list, "seeds": int, "options": dict}
        for name, kind in kinds.items():
            if not isinstance(begun.get(name), kind):
                raise ValueError(f"{BEGUN} is damaged: it names no {name}")
        if not all(isinstance(block, str) for block in begun["blocks"]):
            raise ValueError(f"{BEGUN} is damaged: its blocks are not texts")
        return begun
    except (OSError, ValueError) as e:
        found = e if (folder / BEGUN).exists() else f"no {BEGUN}"
        raise ValueError(f"{folder} holds no comparison to go on with ({found})") from e


def read_latencies(
    folder: Path, identity: str | None, weights: Mapping[str, str | None], batch: int
) -> dict[str, float]:
    """Milliseconds per image by block, as they were measured when these runs ended, or {}.

    Args:
        identity: of the comparison. One of an older version has none, and is measured anew.
        weights: the hash of each run's weights, by its folder's name. Where results.json has
            others, something was trained since.
        batch: images in a batch of the measurement.
    """
    try:
        found = read_json(folder / RESULTS)
        before = {run["directory"]: run["weights_sha256"] for run in found["runs"]}
        alike = (found["id"], found["latency_batch"]) == (identity, batch) and before == weights
        if identity is None or None in before.values() or not alike:
            return {}
        return {row["block"]: float(row["ms_per_image"]) for row in found["rows"]}
    except (OSError, ValueError, LookupError, TypeError):  # missing or damaged: it is written anew
        return {}


def check_can_begin(folder: Path, overwrite: bool) -> None:
    """Raise ValueError if the folder holds another comparison, or files of anything else."""
    check_folder(folder)
    if not folder.is_dir():
        return
    if (folder / BEGUN).exists():
        if not overwrite:
            raise ValueError(
                f"{folder} already holds a comparison; go on with it by --resume {folder}, or "
                "choose another --output, or --overwrite"
            )
        read_begun(folder)
    else:
        check_no_others(folder, [partial_name(BEGUN)], "comparison")


def remove_comparison(folder: Path, keep: Sequence[str]) -> None:
    """Remove the runs and the report of the comparison in a folder, and nothing else.

    compare.json stays: the caller replaces it, so that the folder holds a comparison at all times.

    Args:
        keep: names of runs that stay, since the new comparison overwrites them one by one. Other
            files in their folders stay too.
    """
    if not (folder / BEGUN).exists():
        return
    begun = read_begun(folder)
    for name in begun.get("runs") or runs_of(begun):
        run = folder / Path(str(name)).name
        if run.name not in keep and is_run(run):
            with locked(run):  # raises if a training is writing to it
                remove_run(run)
            (run / LOCK).unlink(missing_ok=True)
            with contextlib.suppress(OSError):  # not empty: it holds files of somebody else
                run.rmdir()
    for name in (REPORT, RESULTS):
        (folder / name).unlink(missing_ok=True)


def runs_of(begun: dict[str, Any]) -> list[str]:
    """The names of the runs' folders, by the blocks and seeds in compare.json."""
    first = begun["options"].get("seed", 0)
    return [f"{f}-s{first + i}" for f in run_names(begun["blocks"]) for i in range(begun["seeds"])]


def run_names(blocks: Sequence[str]) -> list[str]:
    """The names of the blocks' runs, without their seeds: the block's, or recipe1 for a text."""
    return [b if b.isidentifier() else f"recipe{i}" for i, b in enumerate(blocks, start=1)]

"""Where a run goes that names no output: a directory under runs/ that is named after it."""

from __future__ import annotations

import re
from pathlib import Path

from accuracy_booster.training.run_config import RunConfig

MOST = 60  # characters of a block's text in the name of a directory


def base_dir(config: RunConfig) -> Path:
    """runs/MODEL-BLOCK-DATA-sSEED, whether or not something is there already.

    Of a block's text the words and numbers stand there: gap-dense-groups-8-sigmoid.
    """
    words = re.findall(r"\w+", config.block, re.ASCII)
    block = "-".join(words)[:MOST].rstrip("-") or "block"
    name = f"{plain_name(config.network)}-{block}-{config.data_name}-s{config.seed}"
    return Path("runs") / name.replace("/", "_")


def plain_name(network: str) -> str:
    """A network's name, or its import path, as part of a file's name."""
    place, colon, name = network.rpartition(":")
    return f"{Path(place).stem}_{name}" if colon else network.replace("/", "_")


def new_dir(path: Path) -> Path:
    """`path`, or `path-2`, `path-3`, ... if it exists already."""
    number, candidate = 1, path
    while candidate.exists():
        number += 1
        candidate = path.with_name(f"{path.name}-{number}")
    return candidate


def begun_dir(config: RunConfig, place: Path) -> Path:
    """Where torchrun's earlier attempt at the same command put its run.

    Args:
        place: the directory from which `new_dir` counts.
    """
    path = Path(config.output) if config.output else place
    number, last = 1, path
    while not config.output and path.exists():
        last, number = path, number + 1
        path = path.with_name(f"{place.name}-{number}")
    return last

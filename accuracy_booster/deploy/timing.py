"""The latency of an exported file, beside what it is compared with in the same runtime."""

# N images, C channels, H W space

from __future__ import annotations

import copy
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import torch
from torch import nn

from accuracy_booster.analysis.measuring import calls_in_a_row, interleaved_times
from accuracy_booster.exported.about import About
from accuracy_booster.exported.sessions import open_file
from accuracy_booster.fastpath import fold
from accuracy_booster.surgery import unboost
from accuracy_booster.surgery.listing import attached

FILE, PLAIN, UNBOOSTED = "this file", "not folded", "without gates"
CPU = torch.device("cpu")


@dataclass(frozen=True)
class Latency:
    """Times for one batch size.

    Attributes:
        batch: N images at a time.
        times: median milliseconds of one call, of each variant.
        ratios: the file's time over another variant's, the median over the rounds.
    """

    batch: int
    times: dict[str, float]
    ratios: dict[str, float]

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return {"batch": self.batch, "milliseconds": self.times, "this_file_over": self.ratios}


def opponents(network: nn.Module, example: torch.Tensor) -> dict[str, nn.Module]:
    """What a file is compared with: the network as it is, and without its gates, folded."""
    found = {PLAIN: network}
    if attached(network):
        without = unboost(copy.deepcopy(network)).eval()
        found[UNBOOSTED] = fold(without, example=example, kernel="off")
    return found


def time_files(
    files: Mapping[str, Path], about: About, batch_sizes: Iterable[int], seconds: float
) -> tuple[Latency, ...]:
    """Time files in their own runtime, in turns.

    Args:
        files: by the names of the variants; one of them is `FILE`.
        seconds: for each file and each batch size.
    """
    sessions = {name: open_file(path) for name, path in files.items()}
    found = []
    for size in batch_sizes:
        images = np.random.default_rng(0).standard_normal((size, *about.input_size), np.float32)
        steps = {name: partial(session, images) for name, session in sessions.items()}
        calls = {name: calls_in_a_row(step, CPU) for name, step in steps.items()}
        limit = seconds * len(steps)
        times = interleaved_times(steps, CPU, rounds=200, warm_up=1, seconds=limit, calls=calls)
        ratios = {
            name: median(a / b for a, b in zip(times[FILE], values, strict=True))
            for name, values in times.items()
            if name != FILE
        }
        found.append(Latency(size, {name: median(ms) for name, ms in times.items()}, ratios))
    return tuple(found)

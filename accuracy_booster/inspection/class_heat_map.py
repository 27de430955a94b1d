"""How a gate's weights differ between classes: a heat map, and the channels that differ most."""

# K classes, C channels

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from accuracy_booster.inspection.gate_statistics import GateStatistics
from accuracy_booster.report.figures import data_uri

MOST = 30  # classes, and channels, of a heat map
CELL = 20  # pixels of a cell
LETTERS = 24  # of a class name beside it
BELOW, ABOVE = (26, 130, 204), (230, 104, 12)  # a blue and an orange for both themes


def heat_map(gate: GateStatistics, names: Sequence[str]) -> dict[str, Any] | None:
    """The heat map of the classes and channels whose mean weights differ most.

    A cell is the mean weight of a channel on a class, as its distance from the channel's mean over
    all images, in units of the channel's spread.

    Args:
        names: of the classes, by their numbers.

    Returns:
        The picture and its geometry, and the rows of a table that says the same in words: each
        class with its highest and lowest channel. None without labels, or where nothing differs.
    """
    import numpy as np
    from PIL import Image

    if gate.class_means is None or gate.class_counts is None:
        return None
    seen = (gate.class_counts > 0).nonzero().flatten()
    spread = gate.spread.clamp(min=1e-12)
    z = ((gate.class_means[seen] - gate.mean) / spread).masked_fill(gate.spread < 1e-9, 0)
    if len(seen) < 2 or not bool(z.any()):
        return None
    between = ((gate.class_means[seen] - gate.mean) ** 2).mean(0)
    channels = between.argsort(descending=True, stable=True)[:MOST]
    rows = z[:, channels].square().sum(1).argsort(descending=True, stable=True)[:MOST]
    z = z[rows][:, channels]
    # classes, and channels, are ordered by their first singular vector, so that similar ones are
    # neighbours
    u, _, v = torch.linalg.svd(z - z.mean(0), full_matrices=False)
    z = z[u[:, 0].argsort(stable=True)][:, v[0].argsort(stable=True)]
    classes = seen[rows][u[:, 0].argsort(stable=True)].tolist()
    shown = channels[v[0].argsort(stable=True)].tolist()
    limit = max(0.5, round(float(z.abs().max()), 1))
    colours = np.zeros((*z.shape, 4), dtype=np.uint8)
    strength = (z.abs() / limit).clamp(max=1).numpy()
    colours[..., :3] = np.where((z.numpy() > 0)[..., None], ABOVE, BELOW)
    colours[..., 3] = (255 * strength).round()
    return {
        "cells": data_uri(Image.fromarray(colours, "RGBA")),
        "cell": CELL,
        "letters": LETTERS,
        "left": 14 + 7 * min(LETTERS, max(len(names[k]) for k in classes)),
        "classes": [names[k] for k in classes],
        "channels": shown,
        "limit": limit,
        "rows": [
            [
                names[k],
                *(f"{shown[i]} ({row[i]:+.1f})" for i in (int(row.argmax()), int(row.argmin()))),
            ]
            for k, row in zip(classes, z, strict=True)
        ],
        "shown": _shown(len(classes), len(seen), len(shown), gate.channels),
    }


def _shown(classes: int, all_classes: int, channels: int, all_channels: int) -> str:
    if classes == all_classes and channels == all_channels:
        return "All classes and all channels."
    of_classes = "All" if classes == all_classes else f"The {classes} of {all_classes:,}"
    of_channels = "all" if channels == all_channels else f"the {channels} of {all_channels:,}"
    return f"{of_classes} classes and {of_channels} channels that differ most."


def separating_channels(
    gate: GateStatistics, names: Sequence[str], most: int = 5
) -> list[list[str]]:
    """Rows (channel, share of the class, highest and lowest class) of the best channels."""
    if gate.class_share is None or gate.class_means is None:
        return []
    order = gate.class_share.argsort(descending=True, stable=True)[:most]
    rows = []
    for c in order.tolist():
        means = gate.class_means[:, c]
        high, low = int(means.nan_to_num(-1).argmax()), int(means.nan_to_num(1e9).argmin())
        rows.append(
            [
                str(c),
                f"{100 * float(gate.class_share[c]):.0f} %",
                f"{names[high]} ({float(means[high]):.3f})",
                f"{names[low]} ({float(means[low]):.3f})",
            ]
        )
    return rows

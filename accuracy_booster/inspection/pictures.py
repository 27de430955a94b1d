"""Pictures of an inspection: class heat maps and example images, as parts of an HTML page."""

# K classes, C channels

from __future__ import annotations

import base64
import io
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import torch

from accuracy_booster.inspection.gate_statistics import GateStatistics
from accuracy_booster.inspection.results import Inspection

MOST = 30  # classes, and channels, of a heat map
CELL = 20  # pixels of a cell
LETTERS = 24  # of a class name beside it
BELOW, ABOVE = (26, 130, 204), (230, 104, 12)  # a blue and an orange for both themes
VARYING, EXAMPLES = 3, 4  # channels that examples are shown of, and images at each end
SMALL = 64  # pixels: images up to this size are kept as they are
BUDGET = 3_000_000  # bytes of all example images, as they are written


def data_uri(picture: Any, format: str = "PNG") -> str:
    """A PIL image as a data: address."""
    buffer = io.BytesIO()
    picture.save(buffer, format, **({"quality": 82} if format == "JPEG" else {"optimize": True}))
    kind = format.lower()
    return f"data:image/{kind};base64,{base64.b64encode(buffer.getvalue()).decode()}"


# --- class heat maps


def heat_map(gate: GateStatistics, names: Sequence[str]) -> dict[str, Any] | None:
    """The classes and channels whose mean weights differ most.

    Returns:
        The picture's geometry, and in words its classes with their highest and lowest channel;
        None without labels, or where nothing differs.
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
    # like beside like: the order along the direction in which rows, and columns, differ most
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


# --- example images


def examples(gate: GateStatistics, known: Mapping[int, Any], most: int) -> list[dict[str, Any]]:
    """The images with the highest and the lowest weight, of the channels that vary most."""
    if gate.highest is None or gate.lowest is None:
        return []
    found = []
    for c in gate.varying(VARYING):
        sides = []
        for name, ends in (("highest", gate.highest), ("lowest", gate.lowest)):
            pairs = zip(ends.images[c].tolist(), ends.weights[c].tolist(), strict=True)
            kept = [(image, weight) for image, weight in pairs if image in known][:most]
            sides.append({"name": name, "images": kept})
        if any(side["images"] for side in sides):
            about = {"mean": float(gate.mean[c]), "spread": float(gate.spread[c])}
            found.append({"channel": c, "sides": sides, **about})
    return found


def thumbnails(inspection: Inspection) -> tuple[dict[int, dict[str, Any]], int]:
    """The pictures that the page shows, each once, small enough that the page stays light.

    Returns:
        {number of an image: its size and data: address}, and how many are shown of each end.
    """
    found: dict[int, dict[str, Any]] = {}
    for most, side in ((EXAMPLES, 96), (EXAMPLES, 64), (2, 64), (1, 64), (1, 32)):
        wanted = sorted(_wanted(inspection, most))
        found = {n: _thumbnail(inspection.pictures[n], side) for n in wanted}
        if sum(len(picture["data"]) for picture in found.values()) <= BUDGET:
            break
    return found, most


def _wanted(inspection: Inspection, most: int) -> Iterable[int]:
    return {
        image
        for gate in inspection.gates.values()
        for channel in examples(gate, inspection.pictures, most)
        for side in channel["sides"]
        for image, _ in side["images"]
    }


def _thumbnail(pixels: torch.Tensor, side: int) -> dict[str, Any]:
    """uint8 [C, H, W] as a PNG, or as a smaller JPEG where it is large."""
    from PIL import Image

    pixels = pixels.cpu()
    if len(pixels) not in (1, 3):  # no picture that has colours: its mean in grey
        pixels = pixels.float().mean(0, keepdim=True).round().byte()
    array = pixels.permute(1, 2, 0).contiguous().numpy()
    picture = Image.fromarray(array[..., 0] if array.shape[2] == 1 else array)
    small = max(picture.size) <= min(SMALL, side)
    if not small:
        picture.thumbnail((side, side))
    return {
        "width": picture.width,
        "height": picture.height,
        "pixelated": small,
        "data": data_uri(picture, "PNG" if small else "JPEG"),
    }

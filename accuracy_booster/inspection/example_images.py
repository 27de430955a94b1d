"""The images with the highest and lowest weights of a gate, small enough for a page."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from accuracy_booster.inspection.gate_statistics import GateStatistics
from accuracy_booster.inspection.results import Inspection
from accuracy_booster.report.thumbnails import thumbnail

VARYING, EXAMPLES = 3, 4  # channels that examples are shown of, and images at each end
BUDGET = 3_000_000  # bytes of all example images, as they are written


def examples(gate: GateStatistics, known: Mapping[int, Any], most: int) -> list[dict[str, Any]]:
    """The images with the highest and the lowest weight, of the channels that vary most.

    Args:
        known: the images that can be shown, by their numbers.
        most: how many images are shown at each end.
    """
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
    """The pictures that the page shows, each once. All of them together keep to `BUDGET`.

    Returns:
        {number of an image: its size and data: address}, and how many images are shown at each end.
    """
    found: dict[int, dict[str, Any]] = {}
    for most, side in ((EXAMPLES, 96), (EXAMPLES, 64), (2, 64), (1, 64), (1, 32)):
        wanted = sorted(_wanted(inspection, most))
        found = {n: thumbnail(inspection.pictures[n], side) for n in wanted}
        if sum(len(picture["data"]) for picture in found.values()) <= BUDGET:
            break
    return found, most


def _wanted(inspection: Inspection, most: int) -> Iterable[int]:
    """The numbers of the images that are shown, with so many at each end."""
    return {
        image
        for gate in inspection.gates.values()
        for channel in examples(gate, inspection.pictures, most)
        for side in channel["sides"]
        for image, _ in side["images"]
    }

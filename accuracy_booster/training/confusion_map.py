"""Which classes a network confuses, for a page: a heat map of counts, or the worst pairs."""

# K classes

from __future__ import annotations

from typing import Any

from accuracy_booster.progress import printable
from accuracy_booster.training.answers import Answers

MOST = 50  # classes of a heat map
PAIRS = 50
LEVELS = 5  # shades, by the share of a class's images


def heat_map(answers: Answers) -> dict[str, Any] | None:
    """Rows of cells for the template; None for more than `MOST` classes.

    Outputs that are no class of the data are shown if an image was taken for one of them.
    """
    known = set(answers.known) | {given for _, given, _ in answers.pairs}
    columns = sorted(known)
    if len(columns) > MOST or not len(answers):
        return None
    counts = {(true, given): images for true, given, images in answers.pairs}
    rows = []
    for one in answers.by_class:
        cells = []
        for given in columns:
            images = counts.get((one.number, given), 0)
            level = 0 if not images else min(LEVELS, 1 + int(LEVELS * images / one.images))
            kind = "right" if given == one.number else "wrong"
            cells.append({"images": images, "kind": kind, "level": level})
        rows.append({"name": printable(one.name), "images": one.images, "cells": cells})
    return {"columns": [printable(answers.classes[k]) for k in columns], "rows": rows}


def confused_pairs(answers: Answers) -> list[list[str]]:
    """[true class, taken for, images, % of the class's images] of the most confused pairs."""
    images = {one.number: one.images for one in answers.by_class}
    return [
        [
            *(printable(answers.classes[true]), printable(answers.classes[given])),
            *(f"{count:,}", f"{100 * count / images[true]:.1f}"),
        ]
        for true, given, count in answers.confused[:PAIRS]
    ]

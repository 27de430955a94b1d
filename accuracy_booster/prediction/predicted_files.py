"""Predictions in a file: a row of CSV for each image, or one JSON value."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from accuracy_booster import files
from accuracy_booster.exported.predicted import Prediction

KINDS = (".csv", ".json")


def check_kind(path: Path) -> None:
    """Raise ValueError for the name of a file that is neither CSV nor JSON."""
    if path.suffix.lower() not in KINDS:
        raise ValueError(f"{path} must end with {' or '.join(KINDS)}, which says how it is written")
    files.check_folder(path.parent)


def write(path: str | Path, predictions: Sequence[Prediction]) -> None:
    """Write predictions to a file.

    A .csv file has the columns image, class, probability, class_2, probability_2, ..., and
    unreadable. A .json file holds the value of `as_json`.

    Raises:
        CannotWrite: if it cannot be written; what was there is still there.
        ValueError: for a name that ends otherwise.
    """
    path = Path(path)
    check_kind(path)
    if path.suffix.lower() == ".json":
        text = json.dumps(as_json(predictions), indent=1) + "\n"
    else:
        text = _csv(predictions)
    files.write(path, text.encode("utf-8", "backslashreplace"))


def as_json(predictions: Sequence[Prediction]) -> dict[str, Any]:
    """{"images": the predictions, "unreadable": {image: reason}}, as plain values."""
    return {
        "images": [p.to_dict() for p in predictions if not p.unreadable],
        "unreadable": {str(p.image): p.unreadable for p in predictions if p.unreadable},
    }


def _csv(predictions: Sequence[Prediction]) -> str:
    most = max((len(p.classes) for p in predictions), default=1)
    ends = ["", *(f"_{number}" for number in range(2, most + 1))]
    columns = [f"{what}{end}" for end in ends for what in ("class", "probability")]
    text = io.StringIO(newline="")
    writer = csv.writer(text)
    writer.writerow(["image", *columns, "unreadable"])
    for p in predictions:
        pairs = zip(p.classes, p.probabilities, strict=True)
        cells = [cell for name, value in pairs for cell in (name, f"{value:.6g}")]
        cells += [""] * (len(columns) - len(cells))
        writer.writerow([p.image, *cells, p.unreadable])
    return text.getvalue()

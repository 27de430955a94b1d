"""The learning curve of a run, a row of numbers for each epoch, as the text of metrics.csv."""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping, Sequence
from pathlib import Path

Row = Mapping[str, float]


def to_csv(rows: Sequence[Row]) -> bytes:
    """The rows as CSV, under the columns of the last one."""
    text = io.StringIO(newline="")
    writer = csv.DictWriter(text, rows[-1])
    writer.writeheader()
    for row in rows:
        writer.writerow({k: f"{v:.6g}" for k, v in row.items()})
    return text.getvalue().encode()


def read_csv(path: Path) -> list[dict[str, float]]:
    """The rows of a file that `to_csv` made; none if it is not there.

    Raises:
        ValueError: if it is damaged.
    """
    if not path.exists():
        return []
    try:
        content = path.read_bytes()
        rows = list(csv.DictReader(io.StringIO(content.decode(), newline=""), strict=True))
        values = [{str(k): float(v) for k, v in row.items()} for row in rows]
    except (OSError, ValueError, TypeError, csv.Error) as e:
        raise ValueError(f"{path.name} is damaged: {str(e)[:200]}") from None
    if [row.get("epoch") for row in values] != [i + 1 for i in range(len(values))]:
        raise ValueError(f"{path.name} is damaged: its epochs are not 1, 2, 3, ...")
    return values

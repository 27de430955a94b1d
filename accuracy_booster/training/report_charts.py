"""The curves of a run's report: loss, accuracy and learning rate by epoch."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from accuracy_booster.report.figures import line_chart, nice_step
from accuracy_booster.training.learning_curve import Row

DOTTED = 12  # epochs: with more, the lines have no dots
TICKS = 6


def charts(history: Sequence[Row]) -> list[tuple[str, dict[str, Any]]]:
    """(label, geometry for `parts.lines`) of each chart that the learning curve has numbers for."""
    made = []
    for title, y, name in (
        ("Loss", "loss", "loss"),
        ("Accuracy", "top-1 %", "top1"),
        ("Learning rate", "rate", "lr"),
    ):
        series = _series(history, name)
        if series:
            said = f"{title} by epoch: {', '.join(series)}" if name != "lr" else f"{title} by epoch"
            made.append((said, _thinned(line_chart(series, x="epoch", y=y), history)))
    return made


def _series(history: Sequence[Row], name: str) -> dict[str, list[tuple[float, float]]]:
    """{name of a line: its points}, of the columns that end with this name."""
    columns = ["lr"] if name == "lr" else [f"{s}_{name}" for s in ("train", "validation", "test")]
    return {
        column.partition("_")[0] if name != "lr" else "learning rate": [
            (row["epoch"], row[column]) for row in history if column in row
        ]
        for column in columns
        if any(column in row for row in history)
    }


def _thinned(chart: dict[str, Any], history: Sequence[Row]) -> dict[str, Any]:
    """The chart with a few round epochs beside its axis, and with dots only where they are few."""
    first, last = int(history[0]["epoch"]), int(history[-1]["epoch"])
    step = max(1, round(nice_step(last - first, TICKS)))
    kept = [
        tick
        for epoch, tick in zip(range(first, last + 1), chart["x_ticks"], strict=False)
        if epoch % step == 0 or last == first
    ]
    if len(history) > DOTTED:
        for line in chart["lines"]:
            line["dots"] = []
    return {**chart, "x_ticks": kept}

"""The HTML report of a comparison: its table, learning curves, runs and settings."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from accuracy_booster.analysis.comparison_results import Comparison
from accuracy_booster.report.figures import COLOURS, to_themed_svg
from accuracy_booster.report.page import write_page
from accuracy_booster.tables import Table
from accuracy_booster.training import TrainResult


def write_comparison(path: Path, result: Comparison) -> None:
    """Write the report of `ab.compare`.

    Raises:
        CannotWrite: if the file cannot be written; what was there is still there.
    """
    config = result.runs[0].config
    lead = (
        f"{config.model} on {config.data_name}, {config.epochs} epochs, "
        f"seeds {', '.join(map(str, _seeds(result)))}."
    )
    sections = [_results(result)]
    if any(row.diverged for row in result.rows):
        sections.append(_diverged(result))
    sections += [_curves(result), _runs(result), _settings(result)]
    write_page(path, "Comparison of blocks", lead, sections)


def _seeds(result: Comparison) -> list[int]:
    return sorted({run.config.seed for run in result.runs})


def _results(result: Comparison) -> dict[str, Any]:
    images, seeds = result.runs[0].test.images, len(_seeds(result))
    return {
        "title": "Results",
        "table": result.table(),
        "text": (
            f"Top-1 accuracy on the {images:,} test images {_which_epoch(result)}: mean ± sample "
            f"standard deviation over {seeds} seed{'s' if seeds > 1 else ''}. One image is "
            f"{100 / images:.2f} points. With so few seeds, differences of the size of the spread "
            "mean nothing. MACs: multiply-adds for "
            f"one image. ms / image: inference at batch {result.latency_batch}, median, the blocks "
            "timed in turn on this machine."
        ),
    }


def _which_epoch(result: Comparison) -> str:
    """Whose network is measured."""
    if all(run.kept_epoch == run.epochs_done for run in result.runs):
        return "after the last epoch, never the best epoch's"
    return "with the network of the best epoch on the validation split"


def _diverged(result: Comparison) -> dict[str, Any]:
    rows = [
        [row.block, str(seed), reason]
        for row in result.rows
        for seed, reason in row.diverged.items()
    ]
    return {
        "title": "Diverged",
        "text": "Trainings whose loss or gradient was no longer finite. They have no accuracy.",
        "table": Table(["block", "seed", "what happened"], rows),
    }


def _curves(result: Comparison) -> dict[str, Any]:
    split = "validation" if "validation_top1" in result.runs[0].history[0] else "test"
    runs = {
        row.block: [run for run in result.runs if run.config.block == row.block]
        for row in result.rows
        if row.top1
    }
    return {
        "title": "Learning curves",
        "text": "Thin: each seed. Thick: their mean.",
        "figure": learning_curves(runs, split),
        "label": f"Training loss and {split} top-1 error by epoch, one colour a block",
    }


def _runs(result: Comparison) -> dict[str, Any]:
    rows = [
        [
            *(run.config.block, str(run.config.seed)),
            *(f"{run.test.top1:.2f}", f"{run.test.top5:.2f}"),
            *(f"{run.seconds:.0f}", str(run.output)),
        ]
        for run in result.runs
    ]
    header = ["block", "seed", "top-1 %", "top-5 %", "seconds", "directory"]
    return {"title": "Runs", "table": Table(header, rows)}


def _settings(result: Comparison) -> dict[str, Any]:
    rows = [
        [name, value]
        for name, value in result.runs[0].config.shown().items()
        if name not in ("block", "seed", "output", "overwrite")
    ]
    return {
        "title": "Settings",
        "text": "The same for every run but for the block and the seed.",
        "table": Table(["setting", "value"], rows),
    }


def learning_curves(runs: Mapping[str, Sequence[TrainResult]], split: str) -> str:
    """Training loss and top-1 error by epoch, one colour per block, as an inline SVG.

    Args:
        runs: {block: its runs}.
        split: whose error is drawn, "test" or "validation".
    """
    from matplotlib.figure import Figure
    from matplotlib.ticker import LogLocator, MaxNLocator, NullFormatter

    figure = Figure(figsize=(10, 4), layout="constrained")
    loss, error = figure.subplots(1, 2)
    for i, (block, members) in enumerate(runs.items()):
        colour = COLOURS[i % len(COLOURS)]
        # with early stopping, runs have different lengths: the mean ends with the shortest
        shortest = min((run.history for run in members), key=len)
        epochs = [row["epoch"] for row in shortest]
        for axis, value in (
            (loss, lambda row: row["train_loss"]),
            (error, lambda row: 100 - row[f"{split}_top1"]),
        ):
            curves = [[value(row) for row in run.history] for run in members]
            for curve in curves:
                axis.plot(range(1, len(curve) + 1), curve, color=colour, linewidth=0.7, alpha=0.45)
            means = [sum(values) / len(values) for values in zip(*curves, strict=False)]
            axis.plot(epochs, means, color=colour, linewidth=2, label=block, marker=".")
    loss.set(title="Training loss", ylabel="cross-entropy", yscale="log")
    loss.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    error.set(title=f"{split.capitalize()} top-1 error", ylabel="%")
    error.set_yscale("symlog", linthresh=1)  # logarithmic, but with room for an error of 0
    ticks = [tick for tick in (0, 1, 2, 5, 10, 20, 50, 100) if tick <= error.get_ylim()[1]]
    error.set_yticks(ticks)
    error.set_ylim(0, 1.1 * error.get_ylim()[1])
    for axis in (loss, error):
        axis.set_xlabel("epoch")
        axis.yaxis.set_major_formatter("{x:g}")
        axis.yaxis.set_minor_formatter(NullFormatter())
        axis.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
        axis.grid(alpha=0.25)
        axis.spines[["top", "right"]].set_visible(False)
    error.legend(frameon=False)
    return to_themed_svg(figure)

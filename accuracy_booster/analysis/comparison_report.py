"""The report of a comparison: its table, learning curves, runs and settings."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from accuracy_booster.report.figures import COLOURS, to_themed_svg
from accuracy_booster.report.page import write_page

if TYPE_CHECKING:
    from accuracy_booster.analysis.comparison import Comparison


def comparison_table(result: Comparison) -> tuple[list[str], list[list[str]]]:
    """Header and rows of a comparison, as text."""
    header = ["block", "top-1 %", "parameters", "MACs", "ms / image"]
    rows = []
    for row in result.rows:
        spread = "" if row.top1_spread is None else f" ± {row.top1_spread:.2f}"
        accuracy = "" if row.top1_mean is None else f"{row.top1_mean:.2f}{spread}"
        if row.diverged:
            number = len(row.diverged)
            accuracy += f" ({number} diverged)" if row.top1 else "diverged"
        rows.append(
            [
                row.block,
                accuracy,
                f"{row.parameters:,}",
                f"{row.macs:,}",
                f"{row.ms_per_image:.3f}",
            ]
        )
    return header, rows


def write_comparison(path: Path, result: Comparison) -> None:
    """The report of `ab.compare`."""
    config = result.runs[0].config
    seeds = sorted({run.config.seed for run in result.runs})
    split = "validation" if "validation_top1" in result.runs[0].history[0] else "test"
    images = result.runs[0].test.images
    curves = {
        row.block: [r for r in result.runs if r.config.block == row.block]
        for row in result.rows
        if row.top1
    }
    one = 100 / images
    table = {
        "title": "Results",
        "table": comparison_table(result),
        "text": (
            f"Top-1 accuracy on the {images:,} test images after the last epoch, never the best "
            f"epoch's: mean ± sample standard deviation over {len(seeds)} seed"
            f"{'s' if len(seeds) > 1 else ''}. One image is {one:.2f} points. With so few seeds, "
            "differences of the size of the spread mean nothing. MACs: multiply-adds for one "
            f"image. ms / image: inference at batch {result.latency_batch}, median, the blocks "
            "timed in turn on this machine."
        ),
    }
    figure = {
        "title": "Learning curves",
        "text": "Thin: each seed. Thick: their mean.",
        "figure": learning_curves(curves, split),
        "label": f"Training loss and {split} top-1 error by epoch, one colour a block",
    }
    details = {
        "title": "Settings",
        "text": "The same for every run but for the block and the seed.",
        "table": (
            ["setting", "value"],
            [
                [name, value]
                for name, value in config.shown().items()
                if name not in ("block", "seed", "output", "overwrite")
            ],
        ),
    }
    runs = {
        "title": "Runs",
        "table": (
            ["block", "seed", "top-1 %", "top-5 %", "seconds", "directory"],
            [
                [
                    run.config.block,
                    str(run.config.seed),
                    f"{run.test.top1:.2f}",
                    f"{run.test.top5:.2f}",
                    f"{run.seconds:.0f}",
                    str(run.output),
                ]
                for run in result.runs
            ],
        ),
    }
    failed = {
        "title": "Diverged",
        "text": "Trainings whose loss or gradient was no longer finite. They have no accuracy.",
        "table": (
            ["block", "seed", "what happened"],
            [
                [row.block, str(seed), reason]
                for row in result.rows
                for seed, reason in row.diverged.items()
            ],
        ),
    }
    lead = (
        f"{config.model} on {config.data_name}, {config.epochs} epochs, "
        f"seeds {', '.join(map(str, seeds))}."
    )
    sections: list[Mapping[str, Any]] = [table, figure, runs, details]
    if any(row.diverged for row in result.rows):
        sections.insert(1, failed)
    write_page(path, "Comparison of blocks", lead, sections)


def learning_curves(runs: Mapping[str, Sequence[Any]], split: str) -> str:
    """Training loss and top-1 error by epoch, one colour per block, as an inline SVG."""
    from matplotlib.figure import Figure
    from matplotlib.ticker import LogLocator, MaxNLocator, NullFormatter

    figure = Figure(figsize=(10, 4), layout="constrained")
    loss, error = figure.subplots(1, 2)
    for i, (block, members) in enumerate(runs.items()):
        colour = COLOURS[i % len(COLOURS)]
        epochs = [row["epoch"] for row in members[0].history]
        for axis, value in (
            (loss, lambda row: row["train_loss"]),
            (error, lambda row: 100 - row[f"{split}_top1"]),
        ):
            curves = [[value(row) for row in run.history] for run in members]
            for curve in curves:
                axis.plot(epochs, curve, color=colour, linewidth=0.7, alpha=0.45)
            means = [sum(values) / len(values) for values in zip(*curves, strict=True)]
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

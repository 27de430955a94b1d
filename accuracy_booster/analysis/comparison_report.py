"""The HTML report of a comparison: its table, learning curves, runs and settings."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from accuracy_booster.analysis.comparison_folder import REPORT, run_names
from accuracy_booster.analysis.comparison_results import Comparison
from accuracy_booster.report.curves import Curve, draw_curves, legend
from accuracy_booster.report.page import Link, render, write_page
from accuracy_booster.tables import Table
from accuracy_booster.training.measuring import tells_top5


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
    if result.lengthened:
        before = " and ".join(map(str, result.lengthened))
        many = "s"[: before != "1"]
        lead += f" All runs were made longer after they had ended with {before} epoch{many}."
    sections = [_results(result)]
    if any(row.diverged for row in result.rows):
        sections.append(_diverged(result))
    sections += [_curves(result), _runs(result), _settings(result)]
    write_page(path, "Comparison of blocks", lead, sections)


def _seeds(result: Comparison) -> list[int]:
    return sorted({run.config.seed for run in result.runs})


def _results(result: Comparison) -> dict[str, Any]:
    seeds = len(_seeds(result))
    over = f"mean ± sample standard deviation over {seeds} seeds" if seeds > 1 else "of one seed"
    costs = (
        "MACs: multiply-adds for one image. ms / image: inference at batch "
        f"{result.latency_batch}, median, the blocks timed in turn on this machine."
    )
    images = result.runs[0].test.images
    top1 = f"Top-1 accuracy on the {images:,} test images {_which_epoch(result)}: {over}."
    return {
        "title": "Results",
        "table": result.table(),
        "text": "\n".join([*result.caveats(), top1, costs]),
    }


def _which_epoch(result: Comparison) -> str:
    """Whose network is measured."""
    runs = result.runs
    if all(run.best_epoch is not None and run.kept_epoch == run.best_epoch for run in runs):
        return "with the network of the best epoch on the validation split"
    return "after the last epoch, never the best epoch's"


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
    names = dict(zip(runs, run_names(list(runs)), strict=True))
    # with early stopping, runs have different lengths
    longest = max((run.history for run in result.runs), key=len)
    epochs = [row["epoch"] for row in longest]

    def curves(value: Callable[[Mapping[str, float]], float]) -> list[Curve]:
        return [
            Curve(block, names[block], [[value(row) for row in run.history] for run in members])
            for block, members in runs.items()
        ]

    loss = curves(lambda row: row["train_loss"])
    error = curves(lambda row: 100 - row[f"{split}_top1"])
    title = f"{split.capitalize()} top-1 error"
    keys = render("keys.html", curves=legend(loss))
    return {
        "title": "Learning curves",
        "text": "Thin: each seed. Thick: their mean." if len(_seeds(result)) > 1 else "",
        "figures": [
            (
                draw_curves(
                    loss, epochs, title="Training loss", x="epoch", y="cross-entropy", scale="log"
                ),
                "Training loss by epoch, a curve for each block",
            ),
            (
                draw_curves(error, epochs, title=title, x="epoch", y="%", scale="percent"),
                f"{title} by epoch, a curve for each block",
            ),
        ],
        "html": keys,
    }


def _runs(result: Comparison) -> dict[str, Any]:
    top5 = tells_top5(result.runs[0].config.num_classes)
    rows = [
        [
            *(_link(run.output), run.config.block, str(run.config.seed), f"{run.test.top1:.2f}"),
            *([f"{run.test.top5:.2f}"] if top5 else []),
            f"{run.seconds:.0f}",
        ]
        for run in result.runs
    ]
    header = ["run", "block", "seed", "top-1 %", *(["top-5 %"] if top5 else []), "seconds"]
    return {"title": "Runs", "table": Table(header, rows)}


def _link(run: Path) -> Link:
    """A link to a run's own report or, if it has none, to its directory."""
    inside = REPORT if (run / REPORT).is_file() else ""
    return Link(run.name, f"{run.name}/{inside}")


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

"""The HTML report of one run: its curves, its classes, what it confuses, its worst mistakes.

`train` writes it at its end and `eval` writes it anew, each from one pass over the data.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from accuracy_booster.data.images import Images
from accuracy_booster.progress import printable
from accuracy_booster.report.page import render, write_page
from accuracy_booster.tables import Table
from accuracy_booster.training import confusion_map
from accuracy_booster.training.answers import Answers
from accuracy_booster.training.learning_curve import Row
from accuracy_booster.training.measuring import Evaluation, tells_top5
from accuracy_booster.training.mistakes import mistakes
from accuracy_booster.training.report_charts import charts
from accuracy_booster.training.train_config import MEASURED, TrainConfig
from accuracy_booster.training.train_result import kept_in_words

if TYPE_CHECKING:
    from markupsafe import Markup

PACKAGE = "accuracy_booster.training"
SHOWN = 25  # rows of the table of classes that are seen at once
HEADER = ["class", "images", "top-1 %", "most often taken for"]


def write_run_report(
    path: Path,
    measured: Evaluation,
    images: Images,
    *,
    config: TrainConfig,
    split: str = "test",
    info: Mapping[str, Any] | None = None,
    history: Sequence[Row] = (),
    title: str | None = None,
    folded: bool = False,
) -> None:
    """Write a report as one self-contained HTML file.

    Args:
        measured: what the network answered to the images of the split.
        images: these images, whose pictures are shown.
        config: the run's settings; of a module, how it was measured.
        info: what run.json holds; None for a module.
        history: the rows of metrics.csv.
        title: of the page; by default the network, its block and its data.
        folded: the network was folded for inference before it was measured.

    Raises:
        CannotWrite: if the file cannot be written; what was there is still there.
    """
    info = info or {}
    block = "" if config.block == "none" else f" with {config.block}"
    title = title or f"{config.model}{block} on {config.data_name}"
    lead = f"Top-1 {measured.top1:.2f} % on {measured.images:,} {split} images"
    lead += f"{_after(info, len(history))}{', folded for inference' * folded}."
    answers = measured.answers
    sections: list[dict[str, Any]] = [
        {"title": "Result", "html": _result(measured, config, info, split)},
    ]
    if history:
        drawn = [{"label": label, "chart": chart} for label, chart in charts(history)]
        sections.append({"title": "Learning curves", "html": _render("curves.html", charts=drawn)})
    sections += [
        {"title": "Classes", "html": _classes(answers)},
        {"title": "Confusion", "html": _confusion(answers)},
        {"title": "Most confident mistakes", "html": _mistakes(answers, images)},
        {"title": "Settings", "html": _settings(config, trained=bool(info))},
    ]
    write_page(path, printable(title), printable(lead), sections)


def class_rows(answers: Answers) -> list[list[str]]:
    """[class, images, top-1 %, most often taken for] of the classes with images, worst first."""
    rows = []
    for one in answers.worst():
        name, count = one.confused_with or ("", 0)
        taken = f"{printable(name)} ({count:,})" if count else ""
        rows.append([printable(one.name), f"{one.images:,}", f"{one.top1:.1f}", taken])
    return rows


def _render(template: str, **values: Any) -> Markup:
    return render(template, PACKAGE, **values)


def _after(info: Mapping[str, Any], epochs: int) -> str:
    """After how many epochs the network is measured, and why after these."""
    if not epochs:
        return ""
    told = f" after {epochs:,} epoch{'s'[: epochs != 1]}"
    best = (info.get("best") or {}).get("epoch")
    return told + kept_in_words(info.get("kept_epoch", epochs), best)


def _result(
    measured: Evaluation, config: TrainConfig, info: Mapping[str, Any], split: str
) -> Markup:
    classes = len(measured.answers.known)
    tiles = [(f"{measured.top1:.2f} %", "top-1 accuracy")]
    if tells_top5(classes):
        tiles.append((f"{measured.top5:.2f} %", "top-5 accuracy"))
    tiles += [(f"{measured.images:,}", f"{split} images"), (f"{classes:,}", "classes")]
    if isinstance(info.get("parameters"), int):
        tiles.append((f"{info['parameters']:,}", "parameters"))
    return _render("result.html", tiles=tiles, rows=_about(config, info))


def _about(config: TrainConfig, info: Mapping[str, Any]) -> list[list[str]]:
    """[what, value] of what was trained, and on what."""
    marks = info.get("data") or {}
    images = {
        split: known["images"]
        for split, known in marks.items()
        if isinstance(known, Mapping) and "images" in known
    }
    if config.validation and "train" in images:  # a share of the training images is held out
        held = round(config.validation * images["train"])
        other = "validation" if "test" in images else "test"
        images = {**images, "train": images["train"] - held, other: held}
    device, seconds = info.get("device"), info.get("seconds")
    start = "the library's weights" if config.pretrained else "random weights"
    if (info.get("network") or {}).get("trained"):  # a module that the caller gave
        start = "the weights of the module given"
    about = {
        "network": config.model if info else "",
        "block": config.block if info else "",
        "data": config.data,
        "images": ", ".join(f"{count:,} {split}" for split, count in images.items()),
        "before training": _before(info.get("before")),
        "started from": (config.weights or start) if info else "",
        "trained for": f"{seconds:,.0f} s on {device}" if seconds and device else "",
        "not readable": f"{len(info.get('unreadable') or ()):,}" if info.get("unreadable") else "",
    }
    return [[what, printable(value)] for what, value in about.items() if value]


def _before(measured: Any) -> str:
    """What the network could do before its first step, if that was measured."""
    if not isinstance(measured, Mapping) or not isinstance(measured.get("top1"), (int, float)):
        return ""
    return f"top-1 {measured['top1']:.2f} % on the {measured.get('split')} split"


def _classes(answers: Answers) -> Markup:
    rows = class_rows(answers)
    bare = [printable(one.name) for one in answers.by_class if not one.images]
    return _render(
        "classes.html", header=HEADER, rows=rows[:SHOWN], more=rows[SHOWN:], bare=bare[:SHOWN]
    )


def _confusion(answers: Answers) -> Markup:
    return _render(
        "confusion.html",
        map=confusion_map.heat_map(answers),
        pairs=confusion_map.confused_pairs(answers),
    )


def _mistakes(answers: Answers, images: Images) -> Markup:
    wrong = int((answers.labels != answers.given).sum())
    return _render("mistakes.html", wrong=wrong, mistakes=mistakes(answers, images))


def _settings(config: TrainConfig, *, trained: bool) -> Markup:
    """The settings: all of a run, of a module those by which it was measured."""
    shown = config.shown()
    rows = [[name, printable(shown[name])] for name in shown if trained or name in MEASURED]
    return _render("settings.html", table=Table(["setting", "value"], rows))

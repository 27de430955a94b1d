"""The commands of object detection: detect train, detect eval, detect predict."""

from __future__ import annotations

from dataclasses import fields
from pathlib import Path
from typing import Any

from accuracy_booster.cli.command import Command, Result
from accuracy_booster.cli.output import output_file, print_table, say
from accuracy_booster.cli.parser import Parser
from accuracy_booster.cli.shared_options import (
    add_training,
    network_arguments,
    network_or_none,
    trained_value,
)
from accuracy_booster.detection.config import MEASURED, DetectConfig

HEADER = ("AP", "AP50", "AP75", "AP small", "medium", "large")
RECALLS = ("AR 1", "AR 10", "AR 100", "AR small", "medium", "large")


def _train_arguments(parser: Parser) -> None:
    network_arguments(
        parser,
        "backbone",
        about="the classification network (accuracy-booster models) that gives the feature maps, "
        "or the directory of a run of train, whose network, block and weights are taken",
    )
    add_training(parser)
    parser.add_class_arguments(DetectConfig, skip={"backbone"})


def _train(given: dict[str, Any]) -> Result:
    from accuracy_booster.detection.resolving import resolve
    from accuracy_booster.detection.training import train

    backbone = network_or_none(given, "backbone")
    if not backbone and not any(given.get(name) for name in ("resume", "weights")):
        raise ValueError("name a network, with NAME or --backbone NAME, or a run with --resume RUN")
    if given.pop("print_config", False):
        config = resolve(backbone, **given)
        return None, lambda: say(*config.to_yaml().splitlines())
    result = train(backbone, **given)
    value = trained_value(result)

    def show() -> None:
        epochs = result.config.epochs
        say(
            f"{_first(result.test)} on {result.test.images:,} images after {epochs} "
            f"epoch{'s'[: epochs > 1]}, {result.seconds:.0f} s, {result.parameters:,} parameters"
        )
        say(result.output)

    return value, show


def _eval_arguments(parser: Parser) -> None:
    parser.add_argument("run", type=str, help="the directory of a finished run of detect train")
    parser.add_argument(
        "--data", type=str | None, help="other data, or a new place of the run's own"
    )
    parser.add_argument("--split", type=str, default="val", help="val or train")
    parser.add_argument(
        "--results",
        type=str | None,
        help="a JSON file for the detections, in COCO's format of results",
    )
    others = {f.name for f in fields(DetectConfig)} - set(MEASURED)
    # by default the run's own values
    parser.add_class_arguments(DetectConfig, skip=others, as_group=False)


def _eval(given: dict[str, Any]) -> Result:
    from accuracy_booster.detection import evaluate

    results = output_file(given.pop("results", None), "detections.json")
    metrics = evaluate(given.pop("run"), results=results, **given)

    def show() -> None:
        values = list(metrics.to_dict().values())
        print_table([f"{name} %" for name in HEADER], [[_percent(v) for v in values[:6]]])
        print_table([f"{name} %" for name in RECALLS], [[_percent(v) for v in values[6:12]]])
        rows = sorted(metrics.by_class.items(), key=lambda row: -(row[1] or -1))
        rows = [row for row in rows if row[1] is not None]
        print_table(["class", "AP %"], [[name, _percent(value)] for name, value in rows])
        say(f"{metrics.images:,} images")

    return {**metrics.to_dict(), "by_class": dict(metrics.by_class)}, show


def _predict_arguments(parser: Parser) -> None:
    parser.add_argument("run", type=str, help="the directory of a finished run of detect train")
    parser.add_argument(
        "images",
        type=str,
        nargs="+",
        help="files, directories for all images below them, or patterns such as 'photos/**/*.jpg'",
    )
    parser.add_argument(
        "--output",
        type=str,
        default="predictions",
        help="the directory for the pictures with boxes and for predictions.json",
    )
    parser.add_argument(
        "--threshold", type=float, default=0.5, help="the lowest score of a box that is shown"
    )
    parser.add_argument("--device", type=str, default="auto", help="auto, cpu or cuda")


def _predict(given: dict[str, Any]) -> Result:
    from accuracy_booster.data.found_images import find_images
    from accuracy_booster.detection import load, predict_files
    from accuracy_booster.detection.predicting import check_threshold
    from accuracy_booster.progress import bars, note
    from accuracy_booster.training.accelerator import device_named

    threshold = given.get("threshold", 0.5)
    check_threshold(threshold)
    paths = find_images(given["images"])
    device = device_named(given.get("device", "auto"))
    detector: Any = load(given["run"]).to(device)
    output = Path(given.get("output", "predictions"))
    with bars() as progress:
        task = progress.add_task("Looking at images", total=len(paths), note="")
        found = predict_files(
            *(detector, detector.classes, paths, output, threshold),
            on_image=lambda path, prediction: progress.advance(task),
        )
    for reason in found.unreadable.values():
        note(f"left out, {reason}")

    def show() -> None:
        for prediction, picture in zip(found.predictions, found.pictures, strict=True):
            say(f"{picture}: {_counted(prediction.names)}")
        say(output / "predictions.json")

    images = [
        {**p.to_dict(), "picture": str(picture)}
        for p, picture in zip(found.predictions, found.pictures, strict=True)
    ]
    return {"images": images, "unreadable": found.unreadable}, show


def _counted(names: list[str]) -> str:
    """ "2 person, 1 dog", the most first."""
    from collections import Counter

    told = [f"{count} {name}" for name, count in Counter(names).most_common()]
    return ", ".join(told) or "nothing found"


def _first(metrics: Any) -> str:
    ap, ap50, ap75 = (_percent(v) for v in (metrics.ap, metrics.ap50, metrics.ap75))
    return f"AP {ap} %, AP50 {ap50} %, AP75 {ap75} %"


def _percent(value: float | None) -> str:
    """Where no object counts for a number it is left empty."""
    return "-" if value is None else f"{value:.1f}"


COMMANDS = {
    "detect train": Command(
        "Train Faster R-CNN with a boosted or plain backbone on data in COCO's format.",
        "accuracy-booster detect train --data coco --backbone resnet50 --block ab --pretrained",
        _train_arguments,
        _train,
    ),
    "detect eval": Command(
        "COCO's average precision and recall of a finished run of detect train.",
        "accuracy-booster detect eval runs/fasterrcnn-fpn-resnet50-ab-coco-s0",
        _eval_arguments,
        _eval,
    ),
    "detect predict": Command(
        "Find objects in images: pictures with boxes, and a JSON file.",
        "accuracy-booster detect predict runs/fasterrcnn-fpn-resnet50-ab-coco-s0 street.jpg",
        _predict_arguments,
        _predict,
    ),
}

"""The command that names the classes of images: predict."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from accuracy_booster.cli.command import Command, Result
from accuracy_booster.cli.output import output_file, say
from accuracy_booster.cli.parser import Parser
from accuracy_booster.cli.shared_options import own_network_argument
from accuracy_booster.progress import printable


def _predict_arguments(parser: Parser) -> None:
    parser.add_argument(
        "run", type=str, help="the directory of a finished run of train, or a file of export"
    )
    parser.add_argument(
        "images",
        type=str,
        nargs="+",
        help="files, directories for all images below them, or patterns such as 'photos/**/*.jpg'",
    )
    own_network_argument(parser)
    parser.add_argument("--top", type=int, default=5, help="how many classes of each image")
    parser.add_argument(
        "--output",
        type=str | None,
        help="a file for the predictions, .csv or .json, in place of lines on the terminal",
    )
    parser.add_argument("--batch_size", type=int, default=64, help="images that are taken together")
    parser.add_argument(
        "--workers", type=int, default=0, help="processes that read images; 0: this one"
    )
    parser.add_argument("--device", type=str, default="auto", help="auto, cpu or cuda")
    parser.add_argument(
        "--fold", action="store_true", help="use a run's network folded for inference (ab.fold)"
    )


def _predict(given: dict[str, Any]) -> Result:
    from accuracy_booster.data.found_images import find_images
    from accuracy_booster.prediction import predict, predicted_files
    from accuracy_booster.progress import bars, note

    file = output_file(given.pop("output", None), "predictions.csv")
    if file is not None:
        predicted_files.check_kind(file)
    if (workers := given.get("workers", 0)) < 0:
        raise ValueError(f"workers={workers} must be >= 0")
    _check_network(given)  # refused before thousands of files are looked for
    paths = find_images(given.pop("images"))
    given.setdefault("device", "auto")
    found = []
    with bars() as progress:
        task = progress.add_task("Predicting", total=len(paths), note="")
        for prediction in predict(given.pop("run"), paths, **given):
            found.append(prediction)
            progress.advance(task)
    bad = [p for p in found if p.unreadable]
    for prediction in bad:
        note(f"left out, {prediction.unreadable}")
    if file is not None:
        predicted_files.write(file, found)

    def show() -> None:
        if file is None:
            for prediction in found:
                if not prediction.unreadable:
                    say(f"{printable(prediction.image)}: {prediction}")
        else:
            say(file)

    value = {**predicted_files.as_json(found), "output": None if file is None else str(file)}
    return value, show, 1 if bad else 0


def _check_network(given: dict[str, Any]) -> None:
    """Raise ValueError for a directory without a run, a damaged file, or options of the other."""
    from accuracy_booster.exported import open_file
    from accuracy_booster.prediction import predicting

    if predicting.is_file(given["run"]):
        options = {name: given[name] for name in ("model", "device", "fold") if name in given}
        predicting.check_options_of_file(**options)
        given["run"] = open_file(given["run"])
    else:
        from accuracy_booster.training.run_directory import Run

        Run.open(Path(given["run"]))


COMMANDS = {
    "predict": Command(
        "The classes of images and their probabilities, by a finished run or an exported file.",
        "accuracy-booster predict runs/resnet18-ab-photos-s0 photos/ --output classes.csv",
        _predict_arguments,
        _predict,
    ),
}

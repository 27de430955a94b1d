"""The command that measures a finished run: eval."""

from __future__ import annotations

from dataclasses import fields
from pathlib import Path
from typing import Any

from accuracy_booster.cli.command import Command, Result
from accuracy_booster.cli.output import output_file, print_table, say
from accuracy_booster.cli.parser import Parser
from accuracy_booster.cli.shared_options import add_network_and_split
from accuracy_booster.progress import printable
from accuracy_booster.training.train_config import MEASURED, TrainConfig

FEW_CLASSES = 20  # of more, the worst are printed
WORST = 10
# options that leave the result what it is: with others it is not the run's own
SAME_RESULT = {"device", "precision", "workers", "eval_batch_size", "data_dir", "bad_images"}
SAME_RESULT |= {"model"}


def _eval_arguments(parser: Parser) -> None:
    parser.add_argument(
        "run", type=str, help="the directory of a finished run, or an exported file, with --data"
    )
    add_network_and_split(parser)
    parser.add_argument(
        "--fold", action="store_true", help="measure the network folded for inference (ab.fold)"
    )
    parser.add_argument(
        "--report",
        type=str | None,
        help="the HTML file of the result; by default RUN/report.html, for the test split of the "
        "run's own data as it was trained on them",
    )
    parser.add_argument("--no_report", action="store_true", help="write no HTML file")
    others = {f.name for f in fields(TrainConfig)} - set(MEASURED)
    parser.add_class_arguments(TrainConfig, skip=others)


def _eval(given: dict[str, Any]) -> Result:
    from accuracy_booster.training import evaluate
    from accuracy_booster.training.measuring import tells_top5
    from accuracy_booster.training.run_files import REPORT
    from accuracy_booster.training.run_report import HEADER, class_rows

    folded = ", folded" if given.get("fold") else ""
    run, without = given.pop("run"), given.pop("no_report", False)
    page = output_file(given.pop("report", None), "report.html")
    if page is None and not without and _is_own_result(given):
        page = Path(run) / REPORT
    measured = evaluate(run, report=page, **given)

    def show() -> None:
        rows = class_rows(measured.answers)
        top5 = f", top-5 error {measured.top5_error:.2f} %" if tells_top5(len(rows)) else ""
        say(f"top-1 error {measured.top1_error:.2f} %{top5} ({measured.images:,} images{folded})")
        if line := measured.answers.all_as_one():
            say(printable(line))
        few = len(rows) <= FEW_CLASSES
        if not few:
            say(f"the {WORST} classes of {len(rows):,} with the lowest accuracy:")
        print_table(HEADER, rows if few else rows[:WORST])
        if measured.report is not None:
            say(measured.report)

    report = None if measured.report is None else str(measured.report)
    return {**measured.details(), "report": report}, show


def _is_own_result(given: dict[str, Any]) -> bool:
    """Whether what is measured is the run's own network on its own test split."""
    others = {name for name, value in given.items() if value} - SAME_RESULT - {"split"}
    return not others and given.get("split", "test") == "test"


COMMANDS = {
    "eval": Command(
        "The accuracy of a finished run: top-1 and top-5, each class, and an HTML report.",
        "accuracy-booster eval runs/resnet56-ab-cifar100-s0",
        _eval_arguments,
        _eval,
    ),
}

"""The command that measures a finished run: eval."""

from __future__ import annotations

from dataclasses import fields
from typing import Any

from accuracy_booster.cli.command import Command, Result
from accuracy_booster.cli.output import say
from accuracy_booster.cli.parser import Parser
from accuracy_booster.cli.shared_options import own_network_argument
from accuracy_booster.training.train_config import MEASURED, TrainConfig


def _eval_arguments(parser: Parser) -> None:
    parser.add_argument("run", type=str, help="the directory of a finished run")
    own_network_argument(parser)
    parser.add_argument(
        "--data", type=str | None, help="other data, or a new place of the run's own"
    )
    parser.add_argument("--split", type=str, default="test", help="test, train or validation")
    parser.add_argument(
        "--fold", action="store_true", help="measure the network folded for inference (ab.fold)"
    )
    others = {f.name for f in fields(TrainConfig)} - set(MEASURED)
    parser.add_class_arguments(TrainConfig, skip=others)


def _eval(given: dict[str, Any]) -> Result:
    from accuracy_booster.training import evaluate

    folded = ", folded" if given.get("fold") else ""
    metrics = evaluate(given.pop("run"), **given)

    def show() -> None:
        say(
            f"top-1 error {metrics.top1_error:.2f} %, top-5 error {metrics.top5_error:.2f} % "
            f"({metrics.images:,} images{folded})"
        )

    return metrics.to_dict(), show


COMMANDS = {
    "eval": Command(
        "Top-1 and top-5 error of a finished run.",
        "accuracy-booster eval runs/resnet56-ab-cifar100-s0",
        _eval_arguments,
        _eval,
    ),
}

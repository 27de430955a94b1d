"""The commands that train and measure accuracy: train, eval, compare."""

from __future__ import annotations

from dataclasses import fields
from typing import Any

from accuracy_booster.analysis.choices import COMPARED_BLOCKS
from accuracy_booster.cli.command import Command, Result
from accuracy_booster.cli.output import print_table, say
from accuracy_booster.cli.parser import Parser
from accuracy_booster.cli.shared_options import add_training, trained_value
from accuracy_booster.cli.words import split
from accuracy_booster.detection.config import DetectConfig
from accuracy_booster.errors import shown
from accuracy_booster.training.train_config import MEASURED, TrainConfig

MAX_SEEDS = 1000


def _train_arguments(parser: Parser) -> None:
    add_training(parser)
    parser.add_argument("--model", type=str, help="the network (accuracy-booster models)")
    parser.add_class_arguments(TrainConfig, skip={"model"})


def _train(given: dict[str, Any]) -> Result:
    from accuracy_booster.training import resolve, train

    if not given.get("model") and not given.get("resume"):
        raise ValueError("name a network with --model NAME, or a run with --resume RUN")
    if given.pop("print_config", False):
        config = resolve(**given)
        return None, lambda: say(*config.to_yaml().splitlines())
    result = train(given.pop("model", None), **given)
    value = trained_value(result)

    def show() -> None:
        test, epochs = result.test, result.config.epochs
        say(
            f"top-1 {test.top1:.2f} % (error {test.top1_error:.2f} %), top-5 {test.top5:.2f} % "
            f"on {test.images:,} test images after {epochs} epoch{'s'[: epochs > 1]}, "
            f"{result.seconds:.0f} s, {result.parameters:,} parameters"
        )
        say(result.output)

    return value, show


def _compare_arguments(parser: Parser) -> None:
    parser.add_argument("--model", type=str, default="resnet14", help="the network")
    parser.add_argument(
        "--blocks",
        type=str,
        default=",".join(COMPARED_BLOCKS),
        help="the blocks to compare, separated by commas (or by newlines, for texts with commas)",
    )
    parser.add_argument("--seeds", type=int, default=2, help="how many, counting from --seed")
    parser.add_argument("--output", type=str | None, help="the directory of the runs and report")
    parser.add_argument(
        "--resume",
        type=str | None,
        help="go on with the comparison in this directory, as it was; --data if its data moved",
    )
    parser.add_class_arguments(TrainConfig, skip={"model", "block", "output"})


def _compare(given: dict[str, Any]) -> Result:
    from accuracy_booster.analysis import compare

    if given.get("resume"):
        if more := sorted(set(given) - {"resume", "data", "data_dir"}):
            raise ValueError(f"--resume goes on as it was begun; leave out --{', --'.join(more)}")
        result = compare(**given)
    else:
        if given.get("seeds", 1) > MAX_SEEDS:
            raise ValueError(f"seeds={shown(given['seeds'])} must be <= {MAX_SEEDS:,}")
        result = compare(blocks=split(given.pop("blocks", ",".join(COMPARED_BLOCKS))), **given)

    def show() -> None:
        print_table(*result.table())
        say(f"{result.seconds:.0f} s. Report:")
        say(result.report)

    return result.to_dict(), show


def _eval_arguments(parser: Parser) -> None:
    parser.add_argument("run", type=str, help="the directory of a finished run")
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


def _runs_arguments(parser: Parser) -> None:
    parser.add_argument("folder", type=str, nargs="?", default="runs", help="where the runs are")


def _runs(given: dict[str, Any]) -> Result:
    from accuracy_booster.training import list_runs

    folder = given.get("folder", "runs")
    found = list_runs(folder)

    def show() -> None:
        detect = any(run.task == "detection" for run in found)
        header = ["run", "model", "block", "data", "seed", "epoch", "top-1 %"]
        rows = [
            [
                *(str(run.path), run.model, run.block, run.data, str(run.seed)),
                *(f"{run.epoch}/{run.epochs}", "" if run.top1 is None else f"{run.top1:.2f}"),
                *(["" if run.ap is None else f"{run.ap:.1f}"] if detect else []),
                run.state,
            ]
            for run in found
        ]
        print_table([*header, *(["AP %"] if detect else []), "state"], rows)
        stopped = {run.task for run in found if run.state.startswith("stopped")}
        for kind in (TrainConfig, DetectConfig):
            if kind.task in stopped:
                say(f"accuracy-booster {kind.command} --resume RUN goes on with one that stopped.")

    return {"runs": [{**vars(run), "path": str(run.path)} for run in found]}, show


COMMANDS = {
    "compare": Command(
        "Train a network with several blocks and seeds; a table and an HTML report.",
        "accuracy-booster compare --model resnet14 --blocks none,se,ab,ab_plus --seeds 2",
        _compare_arguments,
        _compare,
    ),
    "train": Command(
        "Train a network with or without a block.",
        "accuracy-booster train --model resnet56 --block ab --data cifar100 --epochs 200",
        _train_arguments,
        _train,
    ),
    "runs": Command(
        "List runs with their accuracy and state.",
        "accuracy-booster runs runs",
        _runs_arguments,
        _runs,
    ),
    "eval": Command(
        "Top-1 and top-5 error of a finished run.",
        "accuracy-booster eval runs/resnet56-ab-cifar100-s0",
        _eval_arguments,
        _eval,
    ),
}

"""The command that lists runs: runs."""

from __future__ import annotations

from typing import Any

from accuracy_booster.cli.command import Command, Result
from accuracy_booster.cli.output import print_table, say
from accuracy_booster.cli.parser import Parser
from accuracy_booster.detection.config import DetectConfig
from accuracy_booster.training.train_config import TrainConfig


def _runs_arguments(parser: Parser) -> None:
    parser.add_argument("folder", type=str, nargs="?", default="runs", help="where the runs are")


def _runs(given: dict[str, Any]) -> Result:
    from accuracy_booster.training import list_runs

    folder = given.get("folder", "runs")
    found = list_runs(folder)

    def show() -> None:
        if not found:
            say(f"There is no run in {folder}. accuracy-booster train makes one.")
            return
        detect = any(run.task == "detection" for run in found)
        header = ["run", "model", "block", "data", "seed", "epoch", "top-1 %"]
        rows = [
            [
                *(str(run.path), run.model, run.block, run.data, str(run.seed)),
                *(f"{run.epoch}/{run.epochs}", _percent(run)),
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


def _percent(run: Any) -> str:
    """The top-1 of a run in the list, and the split if it is not the test split."""
    if run.top1 is None:
        return ""
    return f"{run.top1:.2f}" + (f" ({run.split})" if run.split != "test" else "")


COMMANDS = {
    "runs": Command(
        "List runs with their accuracy and state.",
        "accuracy-booster runs runs",
        _runs_arguments,
        _runs,
    ),
}

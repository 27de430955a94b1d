"""The commands that make the paper's tables of accuracy and time again: reproduce run, ..."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from accuracy_booster.cli.command import Command, Result
from accuracy_booster.cli.output import output_file, print_table, say
from accuracy_booster.cli.parser import Parser
from accuracy_booster.cli.words import split
from accuracy_booster.errors import unknown
from accuracy_booster.reproduction.budgets import BUDGETS
from accuracy_booster.reproduction.choices import EXECUTORS, RESULTS, WORK

if TYPE_CHECKING:
    from accuracy_booster.reproduction import Places, Table


def _work_argument(parser: Parser) -> None:
    parser.add_argument(
        "--work", type=str, default=WORK, help="the folder of the runs and of the queue"
    )


def _results_argument(parser: Parser) -> None:
    parser.add_argument(
        "--results", type=str, default=RESULTS, help="the folder of the results, one file a run"
    )


def _places_arguments(parser: Parser, *, data: bool = False) -> None:
    _results_argument(parser)
    _work_argument(parser)
    if data:
        parser.add_argument(
            "--data_dir",
            type=str | None,
            help="a folder that has the data sets by name: cifar10, cifar100, imagenet; the first "
            "two may be missing and are then downloaded",
        )
        parser.add_argument(
            "--weights_dir", type=str | None, help="a folder that has the public weights"
        )


def _places(given: dict[str, Any]) -> Places:
    from accuracy_booster.reproduction import Places

    named = {"results": "results", "work": "work", "data_dir": "data", "weights_dir": "weights"}
    return Places(**{field: Path(given[o]) for o, field in named.items() if given.get(o)})


def _tables_arguments(parser: Parser, *, which: str) -> None:
    parser.add_argument("tables", type=str, nargs="*", default=[], help=f"names of tables; {which}")
    parser.add_argument(
        "--budget", type=str, default="short", help=f"how long a training is: {', '.join(BUDGETS)}"
    )
    parser.add_argument(
        "--seeds",
        type=int | None,
        help="how many, from 0; by default what the table declares; further ones count in the "
        "report where all rows of the table have them",
    )


def _chosen(given: dict[str, Any], default: str) -> list[Table]:
    """The tables that are named, or else the `own` or `all` of them."""
    from accuracy_booster.reproduction import TABLES, find_tables
    from accuracy_booster.reproduction.own_tables import OWN

    if names := [name for word in given.get("tables", []) for name in split(word)]:
        return find_tables(names)
    return list(OWN) if default == "own" else list(TABLES.values())


def _list_arguments(parser: Parser) -> None:
    return None


def _list(given: dict[str, Any]) -> Result:
    from accuracy_booster.reproduction import TABLES

    value = {
        "tables": [
            {
                **{"name": t.name, "title": t.title, "data": t.data, "seeds": t.seeds},
                **{"models": t.models, "blocks": [row.block for row in t.rows]},
                "note": t.note,
            }
            for t in TABLES.values()
        ]
    }

    def show() -> None:
        rows = [[t.name, t.title, t.data, str(len(t.rows)), str(t.seeds)] for t in TABLES.values()]
        print_table(["table", "what is compared", "data", "rows", "seeds"], rows)

    return value, show


def _run_arguments(parser: Parser) -> None:
    _tables_arguments(parser, which="by default our own (small, finetune, ...)")
    _places_arguments(parser, data=True)
    parser.add_argument(
        "--executor", type=str, default="local", help="local: one run at a time here; or slurm"
    )
    parser.add_argument(
        "--slurm_options",
        type=str,
        default="",
        help="with slurm: of a job, such as partition=gpu,gres=gpu:1,time=120",
    )
    parser.add_argument("--slurm_jobs", type=int | None, help="with slurm: jobs at the same time")


def _run(given: dict[str, Any]) -> Result:
    from accuracy_booster.reproduction import plan, work
    from accuracy_booster.reproduction.record import in_words

    executor = given.get("executor", "local")
    if executor not in EXECUTORS:
        raise unknown("executor", executor, EXECUTORS)
    for option in ("slurm_options", "slurm_jobs"):
        if given.get(option) and executor != "slurm":
            raise ValueError(f"--{option.replace('_', '-')} is for --executor slurm")
    tables = _chosen(given, "own")
    specs = plan(tables, given.get("budget", "short"), given.get("seeds"))
    if executor == "slurm":
        from accuracy_booster.reproduction.slurm_options import parse_options
        from accuracy_booster.reproduction.slurm_queue import submit

        options = parse_options(given.get("slurm_options", ""))
        jobs = given.get("slurm_jobs")
        worked = submit(specs, _places(given), options=options, at_once=jobs)
    else:
        worked = work(specs, _places(given))
    value = {
        "made": {record.spec.name: dict(record.values) for record in worked.done},
        "there": worked.there,
        "missing": worked.missing,
        "failed": worked.failed,
    }

    def show() -> None:
        if worked.done:
            rows = [[record.spec.name, in_words(record)] for record in worked.done]
            print_table(["run", "result"], rows)
        made = f"{len(worked.done)} of {len(specs)} runs made, {worked.there} were there"
        for what, runs in (("missing", worked.missing), ("failed", worked.failed)):
            made += f", {len(runs)} {what}" if runs else ""
        say(made)

    return value, show, 1 if worked.failed else 0


def _status_arguments(parser: Parser) -> None:
    _tables_arguments(parser, which="by default all")
    _places_arguments(parser)


def _status(given: dict[str, Any]) -> Result:
    from accuracy_booster.reproduction.status_report import status
    from accuracy_booster.reproduction.time_left import UNKNOWN

    found = status(
        _chosen(given, "all"),
        _places(given),
        budget=given.get("budget", "short"),
        seeds=given.get("seeds"),
    )

    def show() -> None:
        rows = [
            [t.table, t.title, f"{t.done}/{t.runs}", "?" if t.left == UNKNOWN else t.left]
            for t in found.tables
        ]
        print_table(["table", "what is compared", f"{found.budget} runs", "time left"], rows)
        if any(t.left == UNKNOWN for t in found.tables):
            say(f"?: {UNKNOWN} on the same data")
        say(*found.lines())

    return found.to_dict(), show


def _report_arguments(parser: Parser) -> None:
    _results_argument(parser)
    parser.add_argument(
        "--output",
        type=str,
        default="reproduction.md",
        help="the Markdown file to write; the picture gain.svg goes beside it",
    )
    parser.add_argument("--html", type=str | None, help="also write an HTML page to this file")
    parser.add_argument(
        "--readme",
        type=str | None,
        help="also replace the lines between <!-- reproduction --> and <!-- /reproduction --> "
        "in this file",
    )


def _report(given: dict[str, Any]) -> Result:
    from accuracy_booster.reproduction import read_records
    from accuracy_booster.reproduction.report import write_report

    folder = Path(given.get("results", RESULTS))
    if not folder.is_dir():
        raise ValueError(
            f"there is no folder of results {folder}; give --results, or make some with "
            "accuracy-booster reproduce run"
        )
    output = output_file(given.get("output"), "reproduction.md") or Path("reproduction.md")
    html, readme = (
        output_file(given.get("html"), "report.html"),
        output_file(given.get("readme"), "README.md"),
    )
    found = write_report(read_records(folder), output, readme=readme, html=html)

    def show() -> None:
        say(found.summary(), *found.written)

    return found.to_dict(), show


def _pause(given: dict[str, Any]) -> Result:
    from accuracy_booster.reproduction import pause

    stopped = pause(_places(given))
    text = f"paused: {stopped} was stopped and keeps where it is" if stopped else "paused"
    return {"paused": True, "stopped": stopped}, lambda: say(text)


def _continue(given: dict[str, Any]) -> Result:
    from accuracy_booster.reproduction import resume

    was = resume(_places(given))
    return {"paused": False, "was_paused": was}, lambda: say("goes on" if was else "was not paused")


def _example(words: str) -> str:
    return f"accuracy-booster reproduce {words}"


COMMANDS = {
    "reproduce tables": Command(
        "List the tables of accuracy and time that can be made again.",
        _example("tables"),
        _list_arguments,
        _list,
    ),
    "reproduce run": Command(
        "Make the runs of tables that are missing, one at a time at low priority.",
        _example("run small --budget short --data-dir DATA"),
        _run_arguments,
        _run,
    ),
    "reproduce pause": Command(
        "Stop the run under way, which keeps where it is, until `continue`.",
        _example("pause"),
        _work_argument,
        _pause,
    ),
    "reproduce continue": Command("End a pause.", _example("continue"), _work_argument, _continue),
    "reproduce status": Command(
        "Say how far the tables are, and how many hours are left.",
        _example("status"),
        _status_arguments,
        _status,
    ),
    "reproduce report": Command(
        "Write what came out: differences, intervals and verdicts, from the results alone.",
        _example("report --output docs/reproduction.md"),
        _report_arguments,
        _report,
    ),
}

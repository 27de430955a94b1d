"""The command that makes the paper's tables again: reproduce."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from accuracy_booster.cli.base import Command, Parser, print_table, say
from accuracy_booster.errors import unknown

WHAT = ("counts",)


def _arguments(parser: Parser) -> None:
    parser.add_argument(
        "what", type=str, help="counts: every Params, FLOPS, RTM and depth figure of the paper"
    )
    parser.add_argument(
        "--tables", type=list[int] | None, help="only these of 1,2,3,4,7,8,10,15, such as 2,4"
    )
    parser.add_argument("--output", type=str | None, help="also write an HTML page to this file")


def _reproduce(given: dict[str, Any]):
    if given["what"] not in WHAT:
        raise unknown("reproduction", given["what"], WHAT)
    from accuracy_booster.analysis.report import write_page
    from accuracy_booster.reproduction import counts

    output = given.get("output")
    if output and Path(output).is_dir():
        raise ValueError(f"--output {output} is a directory; name a file, such as counts.html")
    result = counts(given.get("tables"))
    if output:
        sections = [
            {"title": title, "table": (header, rows)} for title, header, rows in result.tables()
        ]
        legend = (["word", "meaning"], [list(pair) for pair in result.legend()])
        sections.append({"title": "Words", "table": legend})
        write_page(Path(output), "The paper's counts", result.summary_text(), sections)

    def show() -> None:
        for title, header, rows in result.tables():
            say(title)
            print_table(header, rows)
        print_table(["word", "meaning"], [list(pair) for pair in result.legend()])
        say(*result.summary_text().split("\n"))
        if output:
            say(output)

    return result.to_dict(), show


COMMANDS = {
    "reproduce": Command(
        "Make the paper's tables again and say how far they agree.",
        "accuracy-booster reproduce counts",
        _arguments,
        _reproduce,
    ),
}

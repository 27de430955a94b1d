"""The command that counts the paper's figures of complexity: reproduce counts."""

from __future__ import annotations

from typing import Any

from accuracy_booster.cli.command import Command, Result
from accuracy_booster.cli.output import output_file, print_table, print_tables, say
from accuracy_booster.cli.parser import Parser


def _arguments(parser: Parser) -> None:
    parser.add_argument(
        "--tables", type=list[int] | None, help="only these of 1,2,3,4,7,8,10,15, such as 2,4"
    )
    parser.add_argument("--output", type=str | None, help="also write an HTML page to this file")


def _counts(given: dict[str, Any]) -> Result:
    from accuracy_booster.report.page import write_page
    from accuracy_booster.reproduction import counts

    output = output_file(given.get("output"), "counts.html")
    result = counts(given.get("tables"))
    if output:
        sections = [
            {"title": title, "table": (header, rows)} for title, header, rows in result.tables()
        ]
        legend = (["word", "meaning"], [list(pair) for pair in result.legend()])
        sections.append({"title": "Words", "table": legend})
        write_page(output, "The paper's counts", result.summary_text(), sections)

    def show() -> None:
        print_tables(result.tables())
        print_table(["word", "meaning"], [list(pair) for pair in result.legend()])
        say(*result.summary_text().split("\n"))
        if output:
            say(output)

    return result.to_dict(), show


COMMANDS = {
    "reproduce counts": Command(
        "Count every Params, FLOPS, RTM and depth figure of the paper.",
        "accuracy-booster reproduce counts --tables 2,4",
        _arguments,
        _counts,
    ),
}

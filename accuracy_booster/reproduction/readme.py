"""The block of the README that shows one table of the report."""

from __future__ import annotations

import os
from pathlib import Path

from accuracy_booster.reproduction import cells
from accuracy_booster.reproduction.comparing import Pair, RowResult, TableResult
from accuracy_booster.reproduction.findings import Findings
from accuracy_booster.reproduction.markdown import (
    PICTURE,
    alternative_text,
    escaped,
)
from accuracy_booster.reproduction.phrases import of_declared
from accuracy_booster.reproduction.schedules import schedule_sentences
from accuracy_booster.reproduction.tables import TABLES
from accuracy_booster.reproduction.verdicts import NOT_RUN
from accuracy_booster.tables import Table

BEGIN, END = "<!-- reproduction -->", "<!-- /reproduction -->"  # the marks around the block


def readme_block(shown: TableResult | None, findings: Findings, readme: Path, output: Path) -> str:
    """The lines between the marks: a picture, a table, and a link to the report.

    Args:
        shown: the table that is shown; None if there are no results.
        readme, output: the files of the README and of the report, for relative links.
    """
    where = os.path.relpath(output, readme.parent).replace(os.sep, "/")
    link = f"[{'all tables' if findings.tables else 'what each needs'}]({where})"
    if shown is None:
        return f"No table of the paper was made again yet ({link})."
    picture = os.path.relpath(output.with_name(PICTURE), readme.parent).replace(os.sep, "/")
    rows = []
    for row in shown.rows:
        pairs: list[Pair | None] = [pair for pair in row.pairs if pair.was_run]
        for pair in pairs or [None]:
            rows.append(_row(shown, row, pair))
    whose = f" ({shown.table.printed_for})" if shown.table.printed_for else ""
    unit = "s" if shown.has_times else "%"
    header = ["block", f"ours, {unit}", "minus", "ours [95 % interval]", f"paper{whose}", "verdict"]
    ended = [len(row.by_seed) for row in shown.rows]
    number = of_declared(max(ended), shown.table.seeds)
    if min(ended) < max(ended):
        number = f"{min(ended)} to {number}"
    what = "repetitions" if shown.has_times else "seeds"
    trained = " ".join(schedule_sentences(shown))
    measured = (
        f"Measured: {shown.table.title}. {trained} {number} {what}; mean ± standard deviation, and "
        "differences within each of them."
    )
    run = {result.table.name for result in findings.tables}
    missing = [table.heading for table in TABLES.values() if table.name not in run]
    rest = f" Not run: {', '.join(missing)}." if missing else ""
    if not any("paper" in result.budgets for result in findings.tables):
        rest = f" No table was run with the budget paper, the standard schedule.{rest}"
    lines = [f"![{alternative_text(shown)}]({picture})", Table(header, rows).markdown(escaped)]
    return "\n\n".join([*lines, f"{escaped(measured + rest)} More: {link}."])


def _row(shown: TableResult, row: RowResult, pair: Pair | None) -> list[str]:
    """A row of the table: a result, compared with one reference or with none."""
    first = [shown.label(row.row), cells.ours(row, shown)]
    if pair is None:
        return [*first, "", "", "", "" if not row.pairs else NOT_RUN]
    compared = (cells.measured(pair, shown), cells.printed(pair, shown), cells.verdict(pair))
    return [*first, pair.reference.label, *compared]


def with_block(readme: Path, block: str) -> bytes:
    """The content of the README with the lines between the marks replaced by `block`.

    Raises:
        ValueError: if it cannot be read, or lacks the marks.
    """
    try:
        text = readme.read_bytes().decode()
    except OSError as e:
        raise ValueError(f"cannot read {readme}: {e.strerror or e}") from e
    before, begin, rest = text.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not begin or not end or BEGIN in rest or END in after:
        raise ValueError(
            f"{readme} must have the lines {BEGIN} and {END} once each, in this order; add them "
            "where the results are to stand"
        )
    return f"{before}{BEGIN}\n{block}\n{END}{after}".encode()

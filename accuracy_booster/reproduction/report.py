"""The report on the tables, from the result files alone: Markdown, a picture, README, a page.

The same results give the same bytes.
"""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from accuracy_booster.files import check_folder, write
from accuracy_booster.report.page import write_page
from accuracy_booster.reproduction import words
from accuracy_booster.reproduction.comparing import Pair, RowResult, TableResult
from accuracy_booster.reproduction.figures import differences, histogram
from accuracy_booster.reproduction.findings import Findings, compare
from accuracy_booster.reproduction.records import Records
from accuracy_booster.reproduction.section import Section
from accuracy_booster.reproduction.sections import TITLE, sections
from accuracy_booster.reproduction.tables import TABLES
from accuracy_booster.reproduction.verdicts import NOT_RUN
from accuracy_booster.tables import Table

PICTURE = "gain.svg"
BEGIN, END = "<!-- reproduction -->", "<!-- /reproduction -->"
FIRST = ("small", "short")  # the table and budget that the README shows, if it has results


@dataclass(frozen=True)
class Report:
    """What was written, and what it says.

    Attributes:
        written: the files.
        left_out: the results and files that have no part in it.
    """

    findings: Findings
    written: tuple[Path, ...]
    left_out: tuple[str, ...]

    def summary(self) -> str:
        """One line: how many results, and how often the rule says which word."""
        parts = [f"{number} {word}" for word, number in self.findings.verdicts().items()]
        parts += [f"{words.count(len(self.left_out), 'file')} left out"] if self.left_out else []
        smoke = len(self.findings.smoke)
        parts += [f"{words.count(smoke, 'result')} of the budget smoke left out"] if smoke else []
        return f"{words.count(len(self.findings.used), 'result')}: {', '.join(parts)}"

    def to_dict(self) -> dict[str, Any]:
        """Every number of the report, as plain values."""
        found = self.findings
        return {
            "results": len(found.used),
            "hours": found.hours,
            "intervals": found.intervals,
            "verdicts": dict(found.verdicts()),
            "smoke": len(found.smoke),
            "left_out": list(self.left_out),
            "tables": [_table_dict(result) for result in found.tables],
            "written": [str(path) for path in self.written],
        }


def write_report(
    records: Records, output: Path, *, readme: Path | None = None, html: Path | None = None
) -> Report:
    """Write the report as Markdown, with the picture gain.svg beside it.

    Args:
        readme: a file in which the block between `BEGIN` and `END` is replaced.
        html: also write a page, with a picture of every table.

    Raises:
        ValueError: if the README cannot be read or lacks the marks of the block, or a file is in
            the way.
        CannotWrite: if there is no room.
    """
    findings = compare(records)
    shown = _shown(findings)
    parts = sections(findings, records)
    for path in filter(None, (output, html)):
        check_folder(path.parent)
    picture = output.with_name(PICTURE)
    block = None if readme is None else _with_block(readme, _block(shown, findings, readme, output))
    write(picture, differences(shown).encode() + b"\n")
    write(output, _markdown(parts, shown).encode("utf-8", "backslashreplace"))
    written = [output, picture]
    for part in parts:
        if part.weights is not None:
            drawn = output.with_name(_picture_of(part))
            write(drawn, histogram(part.weights.means).encode() + b"\n")
            written.append(drawn)
    if readme is not None and block is not None:
        write(readme, block)
        written.append(readme)
    if html is not None:
        _write_html(html, parts, findings)
        written.append(html)
    aside = (*findings.other_data, *findings.beyond, *findings.unasked)
    left_out = (*aside, *sorted(path.name for path in records.left_out))
    return Report(findings, tuple(written), left_out)


def _shown(findings: Findings) -> TableResult | None:
    """The table of the picture and of the README."""
    with_pairs = [result for result in findings.tables if result.has_differences]
    for result in with_pairs:
        if result.table.name == FIRST[0] and FIRST[1] in result.budgets:
            return result
    return next(iter([*with_pairs, *findings.tables]), None)


# --- Markdown


def _markdown(parts: Sequence[Section], shown: TableResult | None) -> str:
    blocks = [f"# {TITLE}"]
    for part in parts:
        blocks += [f"## {_escaped(part.title)}"] if part.title else []
        blocks += [_escaped(part.text)] if part.text else []
        blocks += [part.rule] if part.rule else []
        if shown is not None and part.picture is shown:
            blocks.append(f"![{_alt(shown)}]({PICTURE})")
        if part.weights is not None:
            blocks.append(f"![{_escaped(str(part.weights))}]({_picture_of(part)})")
        blocks += [Table(*part.table).markdown(_escaped)] if part.table else []
        blocks += [_escaped(part.items_title)] if part.items_title else []
        blocks += ["\n".join(f"- {_escaped(item)}" for item in part.items)] if part.items else []
    return "\n\n".join(blocks) + "\n"


def _picture_of(part: Section) -> str:
    """The name of the picture of a layer's weights."""
    assert part.picture is not None
    return f"weights-{part.picture.table.name}-{part.picture.budgets[0]}.svg"


def _escaped(text: str) -> str:
    """A text for Markdown, outside of tables; what stands in backticks is a name, and stays."""
    parts = text.split("`")
    parts[::2] = [
        re.sub(r"([\\<*]|\](?=[(\[]))", r"\\\1", part).replace("&", "&amp;") for part in parts[::2]
    ]
    return "`".join(parts)


def _alt(result: TableResult) -> str:
    heading = f"{result.table.heading}, budget {result.budget}: {result.table.title}"
    return _escaped(f"Paired differences with 95 % intervals. {heading}").replace("]", "")


# --- README


def _block(shown: TableResult | None, findings: Findings, readme: Path, output: Path) -> str:
    """The lines between the marks of the README."""
    where = os.path.relpath(output, readme.parent).replace(os.sep, "/")
    link = f"[{'all tables' if findings.tables else 'what each needs'}]({where})"
    if shown is None:
        return f"No table of the paper was made again yet ({link})."
    picture = os.path.relpath(output.with_name(PICTURE), readme.parent).replace(os.sep, "/")
    rows = []
    for row in shown.rows:
        pairs: list[Pair | None] = [pair for pair in row.pairs if pair.was_run]
        for pair in pairs or [None]:
            rows.append(_readme_row(shown, row, pair))
    whose = f" ({shown.table.printed_for})" if shown.table.printed_for else ""
    unit = "s" if shown.has_times else "%"
    header = ["block", f"ours, {unit}", "minus", "ours [95 % interval]", f"paper{whose}", "verdict"]
    ended = [len(row.by_seed) for row in shown.rows]
    number = words.of_declared(max(ended), shown.table.seeds)
    if min(ended) < max(ended):
        number = f"{min(ended)} to {number}"
    what = "repetitions" if shown.has_times else "seeds"
    measured = (
        f"Measured: {shown.table.title}. {' '.join(words.schedules(shown))} {number} {what}; mean "
        "± standard deviation, and differences within each of them."
    )
    run = {result.table.name for result in findings.tables}
    missing = [table.heading for table in TABLES.values() if table.name not in run]
    rest = f" Not run: {', '.join(missing)}." if missing else ""
    if not any("paper" in result.budgets for result in findings.tables):
        rest = f" No table was run with the budget paper, the standard schedule.{rest}"
    lines = [f"![{_alt(shown)}]({picture})", Table(header, rows).markdown(_escaped)]
    return "\n\n".join([*lines, f"{_escaped(measured + rest)} More: {link}."])


def _readme_row(shown: TableResult, row: RowResult, pair: Pair | None) -> list[str]:
    first = [shown.label(row.row), words.ours(row, shown)]
    if pair is None:
        return [*first, "", "", "", "" if not row.pairs else NOT_RUN]
    more = (words.measured(pair, shown), words.printed(pair, shown), words.verdict(pair))
    return [*first, pair.reference.label, *more]


def _with_block(readme: Path, block: str) -> bytes:
    """The README with another block.

    Raises:
        ValueError: if it lacks the marks.
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


# --- HTML


def _write_html(path: Path, parts: Sequence[Section], findings: Findings) -> None:
    head, *rest = parts
    ended = [str(record.about.get("ended", "")) for record in findings.used.values()]
    lead = "\n".join([head.text, *(f"• {item}" for item in head.items)])
    # the last result's date in place of today's: the same results give the same bytes
    write_page(
        path,
        TITLE,
        _plain(lead),
        [_page_section(part) for part in rest],
        made=max(ended, default=""),
    )


def _page_section(part: Section) -> dict[str, Any]:
    section: dict[str, Any] = {"title": part.title}
    listed = [part.items_title, *(f"• {item}" for item in part.items)] if part.items else []
    rule = re.sub(r"\n +(?=[^ -])", " ", part.rule.replace("*", ""))
    text = [part.text, rule, *listed]
    section["text"] = _plain("\n".join(filter(None, text)))
    if part.table:
        header, rows = part.table
        section["table"] = (header, [[_plain(cell) for cell in row] for row in rows])
    if part.picture is not None and part.picture.has_differences:
        section["figure"] = differences(part.picture, themed=True)
    if part.weights is not None:
        section["figure"] = section.get("figure", "") + histogram(part.weights.means, themed=True)
    return section


def _plain(text: str) -> str:
    return text.replace("`", "")


# --- plain values


def _table_dict(result: TableResult) -> dict[str, Any]:
    return {
        **{"table": result.table.name, "title": result.table.title},
        **{"budgets": list(result.budgets), "measures": result.table.measures},
        **{"declared_seeds": result.table.seeds, "hours": result.hours},
        **{"printed_for": result.table.printed_for, "other_data": list(result.other_data)},
        "rows": [_row_dict(row) for row in result.rows],
    }


def _row_dict(row: RowResult) -> dict[str, Any]:
    return {
        **{"label": row.row.label, "model": row.row.model, "block": row.row.block},
        **{"printed": row.row.printed, "run": row.run, "mean": row.mean, "spread": row.spread},
        "by_seed": {str(seed): value for seed, value in row.by_seed.items()},
        "diverged": {str(seed): reason for seed, reason in row.diverged.items()},
        "differences": [_pair_dict(pair) for pair in row.pairs],
    }


def _pair_dict(pair: Pair) -> dict[str, Any]:
    found, verdict = pair.difference, pair.verdict
    return {
        **{"reference": pair.reference.label, "printed": pair.printed},
        "by_seed": {} if found is None else {str(s): d for s, d in found.by_seed.items()},
        "mean": None if found is None else found.mean,
        "spread": None if found is None else found.spread,
        "interval": None if found is None or found.interval is None else list(found.interval),
        **{"verdict": verdict.word, "so_far": verdict.so_far},
        **{"holds_printed": verdict.holds_printed, "seeds_to_tell": verdict.seeds_to_tell},
        "diverged": list(pair.diverged),
    }

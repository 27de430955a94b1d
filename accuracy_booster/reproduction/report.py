"""Writes the report from the results: Markdown, pictures, the block of the README, an HTML page.

The same results give the same bytes.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from accuracy_booster.files import check_folder, write
from accuracy_booster.reproduction.comparing import TableResult
from accuracy_booster.reproduction.figures import differences, histogram
from accuracy_booster.reproduction.findings import Findings, compare
from accuracy_booster.reproduction.html_page import write_html
from accuracy_booster.reproduction.markdown import PICTURE, markdown_page, picture_of
from accuracy_booster.reproduction.phrases import count
from accuracy_booster.reproduction.plain_values import table_dict
from accuracy_booster.reproduction.readme import readme_block, with_block
from accuracy_booster.reproduction.result_files import Records
from accuracy_booster.reproduction.sections import all_sections

FIRST = ("small", "short")  # the table and budget that the README shows, if it has differences


@dataclass(frozen=True)
class Report:
    """What was written, and what it says.

    Attributes:
        findings: what the results say.
        written: the files.
        left_out: the names of results and files that the report leaves out.
    """

    findings: Findings
    written: tuple[Path, ...]
    left_out: tuple[str, ...]

    def summary(self) -> str:
        """One line: the number of results, how often each verdict was reached, what is left out."""
        parts = [f"{number} {word}" for word, number in self.findings.verdicts().items()]
        parts += [f"{count(len(self.left_out), 'file')} left out"] if self.left_out else []
        smoke = len(self.findings.smoke)
        parts += [f"{count(smoke, 'result')} of the budget smoke left out"] if smoke else []
        return f"{count(len(self.findings.used), 'result')}: {', '.join(parts)}"

    def to_dict(self) -> dict[str, Any]:
        """Every number of the report as plain values, for JSON."""
        found = self.findings
        return {
            "results": len(found.used),
            "hours": found.hours,
            "intervals": found.intervals,
            "verdicts": dict(found.verdicts()),
            "smoke": len(found.smoke),
            "left_out": list(self.left_out),
            "tables": [table_dict(result) for result in found.tables],
            "written": [str(path) for path in self.written],
        }


def write_report(
    records: Records, output: Path, *, readme: Path | None = None, html: Path | None = None
) -> Report:
    """Write the report as Markdown, with its pictures beside it.

    Args:
        output: the Markdown file.
        readme: a file in which the block between the marks (`readme.BEGIN`, `END`) is replaced.
        html: also write an HTML page to this file, with a picture of every table.

    Raises:
        ValueError: if the README cannot be read or lacks the marks, or if a file is where a folder
            must be.
        CannotWrite: if there is no room on the disk.
    """
    findings = compare(records)
    shown = _shown(findings)
    parts = all_sections(findings, records)
    for path in filter(None, (output, html)):
        check_folder(path.parent)
    picture = output.with_name(PICTURE)
    block = (
        None
        if readme is None
        else with_block(readme, readme_block(shown, findings, readme, output))
    )
    write(picture, differences(shown).encode() + b"\n")
    write(output, markdown_page(parts, shown).encode("utf-8", "backslashreplace"))
    written = [output, picture]
    for part in parts:
        if part.weights is not None:
            drawn = output.with_name(picture_of(part))
            write(drawn, histogram(part.weights.means).encode() + b"\n")
            written.append(drawn)
    if readme is not None and block is not None:
        write(readme, block)
        written.append(readme)
    if html is not None:
        write_html(html, parts, findings)
        written.append(html)
    aside = (*findings.other_data, *findings.beyond, *findings.unasked)
    left_out = (*aside, *sorted(path.name for path in records.left_out))
    return Report(findings, tuple(written), left_out)


def _shown(findings: Findings) -> TableResult | None:
    """The table that the picture and the README show; None without results.

    It is `FIRST` if that has differences, else the first table that has some, else the first table.
    """
    with_pairs = [result for result in findings.tables if result.has_differences]
    for result in with_pairs:
        if result.table.name == FIRST[0] and FIRST[1] in result.budgets:
            return result
    return next(iter([*with_pairs, *findings.tables]), None)

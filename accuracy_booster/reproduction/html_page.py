"""The report as one HTML page, with a picture of each table that has results."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from accuracy_booster.report.page import write_page
from accuracy_booster.reproduction.figures import differences, histogram
from accuracy_booster.reproduction.findings import Findings
from accuracy_booster.reproduction.section import Section
from accuracy_booster.reproduction.sections import TITLE


def write_html(path: Path, parts: Sequence[Section], findings: Findings) -> None:
    """Write the page.

    Raises:
        CannotWrite: if there is no room on the disk.
    """
    head, *rest = parts
    ended = [str(record.about.get("ended", "")) for record in findings.used.values()]
    lead = "\n".join([head.text, *(f"• {item}" for item in head.items)])
    # The date is that of the last result, so that the same results give the same bytes.
    write_page(
        path,
        TITLE,
        _plain(lead),
        [_page_section(part) for part in rest],
        made=max(ended, default=""),
    )


def _page_section(part: Section) -> dict[str, Any]:
    """A section as `report.page.write_page` takes it."""
    section: dict[str, Any] = {"title": part.title}
    listed = [part.items_title, *(f"• {item}" for item in part.items)] if part.items else []
    # the rule is Markdown: its lines are joined, and its emphasis is removed
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
    """A text without the backticks around names."""
    return text.replace("`", "")

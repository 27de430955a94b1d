"""The report as Markdown: `docs/reproduction.md`."""

from __future__ import annotations

import re
from collections.abc import Sequence

from accuracy_booster.reproduction.comparing import TableResult
from accuracy_booster.reproduction.section import Section
from accuracy_booster.reproduction.sections import TITLE
from accuracy_booster.tables import Table

PICTURE = "gain.svg"  # the file with the picture of the shown table


def markdown_page(parts: Sequence[Section], shown: TableResult | None) -> str:
    """The whole page.

    Args:
        shown: the table whose picture is shown; the differences of other tables are not drawn.
    """
    blocks = [f"# {TITLE}"]
    for part in parts:
        blocks += [f"## {escaped(part.title)}"] if part.title else []
        blocks += [escaped(part.text)] if part.text else []
        blocks += [part.rule] if part.rule else []
        if shown is not None and part.picture is shown:
            blocks.append(f"![{alternative_text(shown)}]({PICTURE})")
        if part.weights is not None:
            blocks.append(f"![{escaped(str(part.weights))}]({picture_of(part)})")
        blocks += [Table(*part.table).markdown(escaped)] if part.table else []
        blocks += [escaped(part.items_title)] if part.items_title else []
        blocks += ["\n".join(f"- {escaped(item)}" for item in part.items)] if part.items else []
    return "\n\n".join(blocks) + "\n"


def picture_of(part: Section) -> str:
    """The name of the file with the picture of a layer's weights."""
    assert part.picture is not None
    return f"weights-{part.picture.table.name}-{part.picture.budgets[0]}.svg"


def escaped(text: str) -> str:
    """A text with Markdown's marks escaped. Names in backticks stay as they are."""
    parts = text.split("`")
    parts[::2] = [
        re.sub(r"([\\<*]|\](?=[(\[]))", r"\\\1", part).replace("&", "&amp;") for part in parts[::2]
    ]
    return "`".join(parts)


def alternative_text(result: TableResult) -> str:
    """What the picture of a table's differences shows, for readers who do not see it."""
    heading = f"{result.table.heading}, budget {result.budget}: {result.table.title}"
    return escaped(f"Paired differences with 95 % intervals. {heading}").replace("]", "")

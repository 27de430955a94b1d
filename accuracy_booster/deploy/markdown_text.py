"""Texts from outside in Markdown and YAML: whatever they hold, it changes no layout."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping
from typing import Any

import yaml

from accuracy_booster.progress import printable

_MARKS = re.compile(r"([\\`*_~<>\[\]|&#])")


def plain(text: object) -> str:
    """The text as it is to be read, in a paragraph, a heading or a cell of a table."""
    return _MARKS.sub(r"\\\1", printable(text))


def code(text: object) -> str:
    """The text as code within a line. A bar is escaped, as tables ask for, also within code."""
    text = printable(text)
    longest = max((len(run) for run in re.findall("`+", text)), default=0)
    fence = "`" * (longest + 1)
    space = " " * (text.startswith("`") or text.endswith("`"))
    return f"{fence}{space}{text}{space}{fence}"


def cell(text: object) -> str:
    """The text as code in a cell of a table, where a bar would end the cell."""
    return code(text).replace("|", "\\|")


def json_lines(values: Iterable[str]) -> str:
    """A list of texts as JSON, one on a line; so no line of it ends a block of code."""
    lines = [json.dumps(printable(value), ensure_ascii=False) for value in values]
    return "[\n" + ",\n".join(f"  {line}" for line in lines) + "\n]"


def yaml_text(values: Mapping[str, Any]) -> str:
    """Plain values as YAML. Whatever the texts hold, it reads back as the same values."""
    return str(yaml.safe_dump(dict(values), sort_keys=False, allow_unicode=True, width=2**20))

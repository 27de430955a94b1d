"""Read YAML texts of plain settings, without running code, in little time and memory."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml

from accuracy_booster.errors import SHOWN, shortened, shown
from accuracy_booster.progress import printable

MAX_FILE = 100_000  # characters of a YAML file; ours have about 1,200
MANY_DIGITS = "a number has thousands of digits"
MAX_DEPTH = 8  # levels of brackets and indents in it; ours have 1


class Settings(dict[str, Any]):
    """Settings by their names. `lines` has the line, from 1, on which each one stands."""

    lines: dict[str, int]


def read_settings(text: str, source: str = "the configuration") -> Settings:
    """The settings in a YAML text: names with plain values, or with flat lists of plain values.

    Whatever the text holds, no code is run, and neither much time nor much memory is taken.

    Args:
        source: what to call the text in an error, such as the file's name.

    Raises:
        ValueError: for any other text, or one that gives a setting twice.
    """
    if len(text) > MAX_FILE:
        raise ValueError(f"{source} has {len(text):,} characters; it may have up to {MAX_FILE:,}")
    try:
        check_nesting(text)
        loader = yaml.SafeLoader(text)
        node = loader.get_single_node()
        if isinstance(node, yaml.MappingNode):
            lines = _lines(node, source)
            values = loader.construct_document(node)
        else:
            raise _NoSettings(_what_it_is(node))
    except _NoSettings as e:
        raise ValueError(
            f"{source} {e}; write one setting on a line, such as 'epochs: 10'"
        ) from None
    except yaml.MarkedYAMLError as e:
        line = f", line {e.problem_mark.line + 1}" if e.problem_mark else ""
        reason = shortened(" ".join(str(e.problem or e.context).split()), SHOWN)
        raise ValueError(f"{source}{line} is no YAML that can be read: {reason}") from None
    except (yaml.YAMLError, ValueError, OverflowError, RecursionError, LookupError) as e:
        if isinstance(e, _Twice):
            raise
        reason = shortened(" ".join(str(e).split()), SHOWN)
        reason = MANY_DIGITS if reason.startswith("Exceeds the limit") else reason
        raise ValueError(f"{source} is no YAML that can be read: {reason}") from None
    for name, value in values.items():
        items = value if isinstance(value, list) else [value]
        where = f"{source}, line {lines[name]}: " if name in lines else f"{source}: "
        if any(isinstance(item, (dict, list, set, tuple)) for item in items):
            raise ValueError(
                f"{where}{shown(name)}: {shown(value)} must be one value or a list of values"
            )
        if any(isinstance(item, int) and item.bit_length() > 64 for item in items):
            raise ValueError(f"{where}{shown(name)}: {shown(value)} must be below 2**64")
    settings = Settings(values)
    settings.lines = lines
    return settings


class _NoSettings(Exception):
    """The text is YAML, and holds no names with values."""


class _Twice(ValueError):
    """A setting is given twice."""


def _lines(node: yaml.MappingNode, source: str) -> dict[str, int]:
    """The line of each name; ValueError for a name that is there twice."""
    lines: dict[str, int] = {}
    for key, _ in node.value:
        name, line = str(key.value), key.start_mark.line + 1
        if name in lines:
            raise _Twice(
                f"{source} gives {shown(name)} twice, on the lines {lines[name]} and {line}; "
                "leave one out"
            )
        lines[name] = line
    return lines


def _what_it_is(node: yaml.Node | None) -> str:
    if node is None:
        return "is empty"
    if isinstance(node, yaml.SequenceNode):
        return "holds a list, not settings"
    return f"holds one value, {shown(node.value)}, not settings"


def read_settings_file(path: str | Path) -> Settings:
    """A YAML file of settings, as `read_settings` reads its text.

    Raises:
        ValueError: for a file that cannot be read, or is no such text.
    """
    source = shortened(printable(path), SHOWN)
    try:
        with open(path, "rb") as file:
            content = file.read(4 * MAX_FILE + 1)
    except OSError as e:
        raise ValueError(f"cannot read the configuration {source}: {e.strerror or e}") from None
    if len(content) > 4 * MAX_FILE:
        raise ValueError(f"the configuration {source} has more than {4 * MAX_FILE:,} bytes")
    try:
        text = content.decode()
    except UnicodeDecodeError as e:
        raise ValueError(f"the configuration {source} is no text in UTF-8: {e.reason}") from None
    return read_settings(text, source)


def check_nesting(text: str) -> None:
    """Raise ValueError for a YAML text whose loading would recurse deeply, or copy parts of it."""
    depth = 0
    for event in yaml.parse(text, yaml.SafeLoader):
        depth += isinstance(event, yaml.CollectionStartEvent)
        depth -= isinstance(event, yaml.CollectionEndEvent)
        if depth > MAX_DEPTH:
            raise ValueError(f"it is nested more than {MAX_DEPTH} levels deep")
        if isinstance(event, yaml.ScalarEvent) and event.value == "<<":
            raise ValueError("it has a merge key (<<); write the settings themselves")

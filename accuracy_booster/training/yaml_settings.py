"""Read YAML texts of plain settings, without running code, in little time and memory."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml

from accuracy_booster.errors import SHOWN, shortened, shown

MAX_FILE = 100_000  # characters of a YAML file; ours have about 1,200
MANY_DIGITS = "a number has thousands of digits"
MAX_DEPTH = 8  # levels of brackets and indents in it; ours have 1


def read_settings(text: str) -> dict[str, Any]:
    """The settings in a YAML text: names with plain values, or with flat lists of plain values.

    Whatever the text holds, no code is run, and neither much time nor much memory is taken.

    Raises:
        ValueError: for any other text.
    """
    if len(text) > MAX_FILE:
        raise ValueError(
            f"the configuration has {len(text):,} characters; it may have up to {MAX_FILE:,}"
        )
    try:
        check_nesting(text)
        values = yaml.safe_load(text)
    except (yaml.YAMLError, ValueError, OverflowError, RecursionError, LookupError) as e:
        reason = shortened(" ".join(str(e).split()), SHOWN)
        reason = MANY_DIGITS if reason.startswith("Exceeds the limit") else reason
        raise ValueError(f"the configuration is no YAML that can be read: {reason}") from None
    if not isinstance(values, dict):
        raise ValueError(f"the configuration names no model, but is {shown(values)}")
    for name, value in values.items():
        items = value if isinstance(value, list) else [value]
        if any(isinstance(item, (dict, list, set, tuple)) for item in items):
            raise ValueError(f"{shown(name)}: {shown(value)} must be one value or a list of values")
        if any(isinstance(item, int) and item.bit_length() > 64 for item in items):
            raise ValueError(f"{shown(name)}: {shown(value)} must be below 2**64")
    return values


def read_settings_file(path: str | Path) -> dict[str, Any]:
    """A YAML file of settings, as `read_settings` reads its text.

    Raises:
        ValueError: for a file that cannot be read, or is no such text.
    """
    try:
        with open(path, "rb") as file:
            content = file.read(4 * MAX_FILE + 1)
        if len(content) > 4 * MAX_FILE:
            raise ValueError(f"it has more than {4 * MAX_FILE:,} bytes")
        return read_settings(content.decode())
    except OSError as e:
        raise ValueError(f"cannot read the configuration {path}: {e.strerror or e}") from None
    except ValueError as e:
        raise ValueError(f"cannot read the configuration {path}: {e}") from None


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

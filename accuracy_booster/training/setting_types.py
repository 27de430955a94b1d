"""Check the types of settings, which the annotations of a configuration's fields state."""

from __future__ import annotations

import math
from dataclasses import fields
from typing import Any

from accuracy_booster.errors import shown

MAX_SIDE = 10_000  # pixels of an image's edge
MAX_TEXT = 10_000  # characters of a name, a path or a recipe


def is_utf8(text: str) -> bool:
    """Whether a path can be encoded: Python writes bytes that are no UTF-8 as lone surrogates."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def is_finite(number: int | float) -> bool:
    """Whether a number is finite as a float."""
    try:
        return math.isfinite(number)
    except OverflowError:  # a whole number that no float holds
        return False


def _is_number(value: object) -> bool:
    number = isinstance(value, (int, float)) and not isinstance(value, bool)
    return number and is_finite(value)  # type: ignore[arg-type]


def check_types(config: Any) -> None:
    """Raise ValueError for a value that is not of its field's annotated type.

    The command line checks the types too; this is for Python and for configuration files.
    """
    expected = {
        "str": "text",
        "bool": "true or false",
        "int": "a whole number",
        "float": "a finite number",
        "tuple[float, ...]": "a list of numbers",
        "tuple[int, ...]": "a list of whole numbers",
        "int | tuple[int, int]": f"a whole number in [1, {MAX_SIDE}], or two: height and width",
    }
    for f in fields(config):
        value, kind = getattr(config, f.name), str(f.type)
        if value is None and "None" in kind:
            continue
        kind = kind.removesuffix(" | None")
        fits = {
            "str": isinstance(value, str),
            "bool": isinstance(value, bool),
            "int": isinstance(value, int) and not isinstance(value, bool),
            "float": _is_number(value),
            "tuple[float, ...]": isinstance(value, tuple) and all(map(_is_number, value)),
            "tuple[int, ...]": isinstance(value, tuple) and all(type(v) is int for v in value),
            "int | tuple[int, int]": isinstance(value, tuple)
            and len(value) == 2
            and all(type(side) is int and 1 <= side <= MAX_SIDE for side in value),
        }[kind]
        if not fits:
            raise ValueError(f"{f.name}={shown(value)} must be {expected.get(kind, kind)}")
        if isinstance(value, str) and len(value) > MAX_TEXT:
            raise ValueError(f"{f.name}={shown(value)} must have up to {MAX_TEXT:,} characters")

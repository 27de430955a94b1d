"""The types of options in a user's words, for `--help` and for errors."""

from __future__ import annotations

from types import NoneType
from typing import Any, get_args

TEXT = "TEXT"
# type: what stands for the value in `--help`, and what it must be
_WORDS: dict[Any, tuple[str, str]] = {
    bool: ("", "true or false"),
    int: ("N", "a whole number"),
    float: ("X", "a number"),
    str: (TEXT, "text"),
    tuple[float, ...]: ("X,X,...", "numbers separated by commas, such as 0.5,0.75"),
    tuple[int, ...]: ("N,N,...", "whole numbers separated by commas, such as 1,16"),
    list[int]: ("N,N,...", "whole numbers separated by commas, such as 1,16"),
    tuple[int, int, int]: ("C,H,W", "three whole numbers C,H,W, such as 3,224,224"),
    (int, tuple[int, int]): ("N|H,W", "a whole number, or two: height,width"),
}


def in_words(kind: Any) -> tuple[str, str]:
    """What stands for a value of this type in `--help`, and what it must be.

    A type that may also be None (`float | None`) is described as the type itself.
    """
    parts = tuple(part for part in get_args(kind) if part is not NoneType)
    if NoneType in get_args(kind) or kind not in _WORDS:
        kind = parts[0] if len(parts) == 1 else parts
    return _WORDS.get(kind, ("VALUE", "another value"))


def takes_numbers(kind: Any) -> bool:
    """Whether an option of this type takes several numbers, written as 1,2,3."""
    return kind is not None and "," in in_words(kind)[0]

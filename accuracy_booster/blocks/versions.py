"""Versions of the grammar: what a block's name or text meant in an earlier one.

A stored recipe holds its version, so a network that was trained with an earlier meaning still
computes the same. Version 1 (before 0.2) had CBAM's two planes in the order mean, maximum. Version
2 has the order of CBAM's authors (maximum, mean), and their momentum in the spatial gate's norm.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from accuracy_booster.errors import shown

VERSION = 2
# {version: {part: the defaults of its arguments that have changed since}}
FORMER_DEFAULTS: dict[int, dict[str, dict[str, Any]]] = {1: {"channel_pool": {"order": "mean_max"}}}
# {version: {name of a block: its recipe then, in today's grammar}}
FORMER_ROWS: dict[int, dict[str, str]] = {
    1: {
        "cbam": "gap + gmp | bottleneck(16) | sigmoid ; "
        "channel_pool(order=mean_max) | conv2d(7) | bn | sigmoid"
    }
}


def checked(version: object) -> int:
    """A version that was read from a file, checked.

    Raises:
        ValueError: if this package does not know it.
    """
    if type(version) is int and (version == VERSION or version in FORMER_DEFAULTS):
        return version
    known = ", ".join(map(str, [*FORMER_DEFAULTS, VERSION]))
    raise ValueError(
        f"a recipe of version {shown(version)}; this package reads {known}: install a newer one"
    )


def with_former_defaults(name: str, arguments: Mapping[str, Any], version: int) -> dict[str, Any]:
    """A part's arguments, completed by the defaults of a version."""
    return {**FORMER_DEFAULTS.get(version, {}).get(name, {}), **arguments}

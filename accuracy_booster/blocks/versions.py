"""What a block's text and name meant in earlier versions of the package.

A stored recipe says which version it is of. So what was trained with an earlier meaning still
computes what it computed. Version 1 (before 0.2) had CBAM's two planes in the order mean, maximum.
Version 2 has the order of CBAM's authors, and their momentum in the norm of its spatial gate.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from accuracy_booster.errors import shown

VERSION = 2
# version: part: the arguments that it had where none was given
FORMER_DEFAULTS: dict[int, dict[str, dict[str, Any]]] = {1: {"channel_pool": {"order": "mean_max"}}}
# version: name: the text of its row in the table, as it is written today
FORMER_ROWS: dict[int, dict[str, str]] = {
    1: {
        "cbam": "gap + gmp | bottleneck(16) | sigmoid ; "
        "channel_pool(order=mean_max) | conv2d(7) | bn | sigmoid"
    }
}


def checked(version: object) -> int:
    """A version that was read from a file.

    Raises:
        ValueError: for one that this package does not know.
    """
    if type(version) is int and (version == VERSION or version in FORMER_DEFAULTS):
        return version
    known = ", ".join(map(str, [*FORMER_DEFAULTS, VERSION]))
    raise ValueError(
        f"a recipe of version {shown(version)}; this package reads {known}: install a newer one"
    )


def with_former_defaults(name: str, arguments: Mapping[str, Any], version: int) -> dict[str, Any]:
    """A part's arguments, with those spelled out that a version had by default."""
    return {**FORMER_DEFAULTS.get(version, {}).get(name, {}), **arguments}

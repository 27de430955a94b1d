"""Places in other packages that replace, fuse, copy or rebuild modules, and what happens to gates.

docs/trainers/places.md shows these tables. Each tool calls the package itself: it takes a small
boosted network and returns what the package made of it (None: the same network).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

from torch import nn

# gates on the norms at the ends of the branches, and on the convolutions before them
SITES = {"norm": ("1.bn2", "2.bn2"), "conv": ("1.conv2", "2.conv2")}
KEPT = "kept"


class Place(NamedTuple):
    """A place, what it does, and what happens to gates there.

    Attributes:
        package: the distribution, as it is imported.
        function: its name in the package.
        does: what it does to modules.
        happens: "kept", "kept; ..." (a remark), "error: ...", "lost: ..." (not told, see the page).
        tool: calls it.
        sites: the kinds of SITES for which this holds.
        warns, raises: a pattern of the warning, or of the error.
        close: how far the outputs may be off, relative to the largest.
    """

    package: str
    function: str
    does: str
    happens: str
    tool: Callable[[nn.Module], Any]
    sites: tuple[str, ...] = tuple(SITES)
    warns: str = ""
    raises: str = ""
    close: float = 1e-5

    def line(self) -> str:
        """Its row in docs/trainers/places.md."""
        only = "" if len(self.sites) == len(SITES) else f" (gate on a {self.sites[0]})"
        return f"| `{self.function}`{only} | {self.does} | {self.happens} |"

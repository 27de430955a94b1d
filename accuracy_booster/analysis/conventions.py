"""What the literature calls MACs; the paper's tables mix several conventions.

A convention is a name. `mac` counts the multiply-adds of convolutions, dense layers and matrix
products, those of blocks too. Each `+term` after it also counts one kind of arithmetic, once per
element of a feature map: `mac+norm`.
"""

from __future__ import annotations

from accuracy_booster.analysis.counter import Count
from accuracy_booster.analysis.operators import KINDS
from accuracy_booster.errors import unknown

TERMS = tuple(kind for kind in KINDS if kind != "mac")

# the conventions that the paper's tables need
CONVENTIONS: dict[str, str] = {
    "mac": "multiply-adds and nothing else; the paper's Tables 1 to 4",
    "mac+norm": "and one per element that a norm gives; Tables 7 and 8",
    "mac+sum": "and one per element of a residual sum; ResNet-152 in Table 2",
    "mac+bias": "and one per element that a convolution adds a bias to; Table 15",
}


def terms_of(convention: str) -> tuple[str, ...]:
    """The terms of a convention, without `mac`.

    Raises:
        ValueError: for one that does not exist, with the nearest ones.
    """
    first, *terms = str(convention).split("+")
    if first != "mac" or len(set(terms)) < len(terms) or not set(terms) <= set(TERMS):
        remedy = f"or mac with any of {', '.join(f'+{term}' for term in TERMS)}"
        raise unknown("convention", str(convention), CONVENTIONS, remedy)
    return tuple(terms)


def count(what: Count, convention: str) -> int:
    """The number that a convention calls MACs. Its terms are counted on maps, not on vectors."""
    return what.macs + sum(what.maps[term] for term in terms_of(convention))

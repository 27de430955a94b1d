"""What the literature counts as multiply-adds; the paper mixes several.

A convention is a name: `mac` for the multiply-adds of convolutions, dense layers and matrix
products (the blocks' too), and `+term` for each kind of arithmetic that also counts, once per
element of a feature map: `mac+norm`.
"""

from __future__ import annotations

from accuracy_booster.analysis.counter import KINDS, Count
from accuracy_booster.errors import unknown

TERMS = tuple(kind for kind in KINDS if kind != "mac")

# those that the paper's tables need
CONVENTIONS: dict[str, str] = {
    "mac": "multiply-adds and nothing else; the paper's Tables 1 to 4",
    "mac+norm": "and one per element that a norm gives; Tables 7 and 8",
    "mac+sum": "and one per element of a residual sum; ResNet-152 in Table 2",
    "mac+bias": "and one per element that a convolution adds a bias to; Table 15",
}


def terms_of(convention: str) -> tuple[str, ...]:
    """The terms of a convention beside the multiply-adds.

    Raises:
        ValueError: for one that does not exist, with the nearest ones.
    """
    first, *terms = str(convention).split("+")
    if first != "mac" or len(set(terms)) < len(terms) or not set(terms) <= set(TERMS):
        remedy = f"or mac with any of {', '.join(f'+{term}' for term in TERMS)}"
        raise unknown("convention", str(convention), CONVENTIONS, remedy)
    return tuple(terms)


def count(what: Count, convention: str) -> int:
    """The number that a convention calls MACs; its terms are those of maps, not of vectors."""
    return what.macs + sum(what.maps[term] for term in terms_of(convention))

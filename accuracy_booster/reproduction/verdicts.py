"""The rule that turns paired differences over seeds, and their intervals, into verdicts.

The rule is written in `rule.md`, which was committed before the first run of the tables.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from accuracy_booster.analysis.paired_differences import Difference

SMALLEST = 0.3  # points: the smallest difference of interest where the paper prints none

CONFIRMED, CONTRADICTED = "confirmed", "contradicted"
TOO_SMALL, NOT_RUN = "too small to tell", "not run"
MORE, LESS = "more accurate", "less accurate"  # where the paper prints nothing


def rule() -> str:
    """The rule, as Markdown."""
    return (Path(__file__).parent / "rule.md").read_text()


@dataclass(frozen=True)
class Verdict:
    """What the rule says of a difference.

    Attributes:
        word: CONFIRMED, CONTRADICTED, TOO_SMALL, MORE, LESS or NOT_RUN.
        holds_printed: whether the interval holds the printed difference; None where there is no
            interval, or nothing is printed.
        seeds_to_tell: how many seeds it would take; given where the word is TOO_SMALL.
        so_far: whether there are fewer seeds than the table declares.
    """

    word: str
    holds_printed: bool | None = None
    seeds_to_tell: int | None = None
    so_far: bool = False


def judge(difference: Difference | None, printed: float | None, declared: int) -> Verdict:
    """Apply the rule.

    Args:
        difference: the paired differences; None if no pair has ended.
        printed: the difference that the paper prints; None if it prints none.
        declared: the number of seeds after which the verdict is final.
    """
    if difference is None or not difference.by_seed:
        return Verdict(NOT_RUN)
    so_far = len(difference.by_seed) < declared
    interval = difference.interval
    wanted = SMALLEST if printed is None else printed
    if interval is None:
        return Verdict(TOO_SMALL, so_far=so_far)
    low, high = interval
    side = (low > 0) - (high < 0)  # 1: the interval is above zero; -1: below; 0: it holds zero
    holds = None if printed is None else low <= printed <= high
    if printed is None:
        word = {1: MORE, -1: LESS, 0: TOO_SMALL}[side]
    elif side:
        # a printed difference of 0 is contradicted by an interval on either side of zero
        word = CONFIRMED if side * printed > 0 else CONTRADICTED
    else:
        word = TOO_SMALL if holds else CONTRADICTED
    needed = difference.seeds_to_tell(wanted) if word == TOO_SMALL else None
    return Verdict(word, holds, needed, so_far)

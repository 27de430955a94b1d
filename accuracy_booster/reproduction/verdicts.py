"""Paired differences over seeds, their intervals, and the rule that turns them into verdicts.

The rule is `rule.md`. It was committed before the first run of the tables.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from statistics import mean, stdev

CONFIDENCE = 0.95
POWER = 0.8  # with which the wanted number of seeds tells a difference
SMALLEST = 0.3  # points: the difference of interest where the paper prints none
MOST_SEEDS = 1000

CONFIRMED, CONTRADICTED = "confirmed", "contradicted"
TOO_SMALL, NOT_RUN = "too small to tell", "not run"
MORE, LESS = "more accurate", "less accurate"  # where the paper prints nothing


def rule() -> str:
    """The rule, as Markdown."""
    return (Path(__file__).parent / "rule.md").read_text()


@dataclass(frozen=True)
class Difference:
    """Paired differences of a row and a reference, in points (or % of time), by seed."""

    by_seed: Mapping[int, float]

    @property
    def seeds(self) -> list[int]:
        return sorted(self.by_seed)

    @property
    def mean(self) -> float:
        return mean(self.by_seed.values())

    @property
    def spread(self) -> float | None:
        """The sample standard deviation; None for one seed."""
        return stdev(self.by_seed.values()) if len(self.by_seed) > 1 else None

    @property
    def interval(self) -> tuple[float, float] | None:
        """The interval of the mean; None for one seed."""
        if self.spread is None:
            return None
        number = len(self.by_seed)
        half = _t(number, (1 + CONFIDENCE) / 2) * self.spread / math.sqrt(number)
        return self.mean - half, self.mean + half

    def seeds_to_tell(self, difference: float) -> int | None:
        """How many seeds tell a difference from zero; None if unknown, or over `MOST_SEEDS`."""
        if self.spread is None or difference == 0:
            return None
        for number in range(2, MOST_SEEDS + 1):
            needed = _t(number, (1 + CONFIDENCE) / 2) + _t(number, POWER)
            if needed * self.spread / math.sqrt(number) < abs(difference):
                return number
        return None


def _t(number: int, share: float) -> float:
    """Student's t for a number of seeds."""
    from scipy.stats import t

    return float(t.ppf(share, number - 1))


@dataclass(frozen=True)
class Verdict:
    """What the rule says of a difference.

    Attributes:
        word: one of the words of the rule.
        holds_printed: whether the interval holds the printed difference; None where there is no
            interval, or nothing is printed.
        seeds_to_tell: how many seeds it would take, where the word is "too small to tell".
        so_far: whether there are fewer seeds than the table declares.
    """

    word: str
    holds_printed: bool | None = None
    seeds_to_tell: int | None = None
    so_far: bool = False


def judge(difference: Difference | None, printed: float | None, declared: int) -> Verdict:
    """The rule: paired differences, the difference that the paper prints (None if it does not)."""
    if difference is None or not difference.by_seed:
        return Verdict(NOT_RUN)
    so_far = len(difference.by_seed) < declared
    interval = difference.interval
    wanted = SMALLEST if printed is None else printed
    if interval is None:
        return Verdict(TOO_SMALL, so_far=so_far)
    low, high = interval
    side = (low > 0) - (high < 0)  # 1 above zero, -1 below, 0 if it holds zero
    holds = None if printed is None else low <= printed <= high
    if printed is None:
        word = {1: MORE, -1: LESS, 0: TOO_SMALL}[side]
    elif side:
        # a printed difference of zero has no side, and any other contradicts it
        word = CONFIRMED if side * printed > 0 else CONTRADICTED
    else:
        word = TOO_SMALL if holds else CONTRADICTED
    needed = difference.seeds_to_tell(wanted) if word == TOO_SMALL else None
    return Verdict(word, holds, needed, so_far)

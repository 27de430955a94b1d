"""Paired differences over seeds, their intervals, and the rule that turns them into verdicts.

The rule is written in `rule.md`, which was committed before the first run of the tables.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from statistics import mean, stdev

CONFIDENCE = 0.95
POWER = 0.8  # the probability with which the reported number of seeds finds a difference
SMALLEST = 0.3  # points: the smallest difference of interest where the paper prints none
MOST_SEEDS = 1000  # larger numbers of seeds are not reported

CONFIRMED, CONTRADICTED = "confirmed", "contradicted"
TOO_SMALL, NOT_RUN = "too small to tell", "not run"
MORE, LESS = "more accurate", "less accurate"  # where the paper prints nothing


def rule() -> str:
    """The rule, as Markdown."""
    return (Path(__file__).parent / "rule.md").read_text()


@dataclass(frozen=True)
class Difference:
    """The differences row minus reference, in points (or in % of time), by seed."""

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
        """The 95 % confidence interval of the mean difference; None for one seed.

        For n seeds and the sample standard deviation s it is mean ± t(n - 1) * s / sqrt(n).
        """
        if self.spread is None:
            return None
        number = len(self.by_seed)
        half = _t(number, (1 + CONFIDENCE) / 2) * self.spread / math.sqrt(number)
        return self.mean - half, self.mean + half

    def seeds_to_tell(self, difference: float) -> int | None:
        """How many seeds it takes to tell a difference from zero with a power of 80 %.

        None if the spread is unknown, or if it takes more than `MOST_SEEDS`.
        """
        if self.spread is None or difference == 0:
            return None
        for number in range(2, MOST_SEEDS + 1):
            needed = _t(number, (1 + CONFIDENCE) / 2) + _t(number, POWER)
            if needed * self.spread / math.sqrt(number) < abs(difference):
                return number
        return None


def _t(number: int, share: float) -> float:
    """The quantile `share` of Student's t distribution for the mean of `number` seeds."""
    from scipy.stats import t

    return float(t.ppf(share, number - 1))


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

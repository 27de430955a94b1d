"""Differences between runs of the same seed, and the 95 % interval of their mean."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from statistics import mean, stdev

CONFIDENCE = 0.95
POWER = 0.8  # the probability with which the reported number of seeds finds a difference
MOST_SEEDS = 1000  # larger numbers of seeds are not reported


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

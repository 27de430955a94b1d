"""The rule: intervals, verdicts and numbers of seeds, against scipy."""

from __future__ import annotations

import numpy as np
import pytest
from support.results import (
    CLEAR,
    CONFIRMED,
    CONTRADICTED,
    LESS,
    MORE,
    NOT_RUN,
    TOO_SMALL,
    WIDE,
    interval_of,
    needed,
    put_pairs,
    table,
    the_pair,
)

from accuracy_booster.reproduction.verdicts import Difference, judge

NEAR_ZERO = [0.3, -0.2, 0.1, -0.1, 0.05]


@pytest.mark.parametrize(
    ("differences", "printed", "word", "holds"),
    [
        (CLEAR, 1.3, CONFIRMED, True),
        (CLEAR, 2.3, CONFIRMED, False),
        ([-d for d in CLEAR], -0.4, CONFIRMED, False),
        (CLEAR, -0.4, CONTRADICTED, False),  # the other side of zero
        ([-d for d in CLEAR], 1.3, CONTRADICTED, False),
        (NEAR_ZERO, 1.7, CONTRADICTED, False),  # no gain of that size
        (WIDE, 1.7, TOO_SMALL, True),
        (WIDE, -1.0, TOO_SMALL, True),
        ([1.2], 1.7, TOO_SMALL, None),
        (CLEAR, None, MORE, None),
        ([-d for d in CLEAR], None, LESS, None),
        (WIDE, None, TOO_SMALL, None),
        ([0.8], None, TOO_SMALL, None),
        ([], 1.7, NOT_RUN, None),
    ],
)
def test_verdicts(tmp_path, differences, printed, word, holds):
    of = table((71.0, None if printed is None else round(71.0 + printed, 1)))
    put_pairs(tmp_path, of, differences)
    pair = the_pair(tmp_path, of)
    assert (pair.printed, pair.verdict.word) == (printed, word)
    assert pair.verdict.so_far == (0 < len(differences) < of.seeds)
    if not differences:
        assert pair.difference is None
        return
    assert list(pair.difference.by_seed.values()) == pytest.approx(differences)
    assert pair.difference.mean == pytest.approx(np.mean(differences))
    if len(differences) == 1:
        assert pair.difference.interval is None
        assert pair.verdict.seeds_to_tell is None
        return
    low, high = interval_of(differences)
    assert pair.difference.interval == pytest.approx((low, high))
    if printed is not None:
        assert holds == (low <= printed <= high)
    assert pair.verdict.holds_printed == holds
    assert (pair.verdict.seeds_to_tell is not None) == (word == TOO_SMALL)
    if word == TOO_SMALL:
        wanted = needed(0.3 if printed is None else printed, float(np.std(differences, ddof=1)))
        assert pair.verdict.seeds_to_tell == wanted


@pytest.mark.parametrize("spread", [0.2, 0.5, 1.0, 2.0])
@pytest.mark.parametrize("difference", [0.3, -0.5, 1.7])
def test_the_number_of_seeds_that_would_tell(spread, difference):
    values = spread * np.array([1.0, -1.0]) / 2**0.5  # their sample standard deviation is spread
    found = Difference(dict(enumerate(values))).seeds_to_tell(difference)
    assert found == needed(difference, spread)


def test_more_seeds_than_1000_are_not_told_as_a_number():
    assert Difference({0: 10.0, 1: -10.0}).seeds_to_tell(0.1) is None


def test_an_interval_that_ends_at_zero_holds_it(monkeypatch):
    monkeypatch.setattr(Difference, "interval", (0.0, 2.0))
    assert judge(Difference({0: 0.0, 1: 2.0}), None, 2).word == TOO_SMALL
    assert judge(Difference({0: 0.0, 1: 2.0}), 2.0, 2).word == TOO_SMALL  # it holds d at its end
    assert judge(Difference({0: 0.0, 1: 2.0}), 2.1, 2).word == CONTRADICTED

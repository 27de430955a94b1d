"""Verdicts on printed numbers: equal, truncated or not reproducible."""

from __future__ import annotations

import pytest
from support.counts import DIFFERENT, EQUAL, TRUNCATED

from accuracy_booster.reproduction.count_checks import verdict


@pytest.mark.parametrize(
    ("printed", "ours", "expected"),
    [
        ("25.57M", 25_570_000, EQUAL),
        ("25.57M", 25_565_000, EQUAL),  # half rounds up
        ("25.57M", 25_564_999, DIFFERENT),
        ("25.57M", 25_574_999, EQUAL),
        ("25.57M", 25_575_000, TRUNCATED),
        ("25.57M", 25_579_999, TRUNCATED),
        ("25.57M", 25_580_000, DIFFERENT),
        ("25.57M", 25_560_000, DIFFERENT),
        ("25.57M", 25_557, DIFFERENT),
        ("3.858G", 3_857_500_000, EQUAL),
        ("3.858G", 3_858_999_999, TRUNCATED),
        ("3.858G", 3_857_499_999, DIFFERENT),
        ("11.30G", 11_304_999_999, EQUAL),
        ("11.30G", 11_310_000_000, DIFFERENT),  # the zero is a printed digit
        ("140.0M", 140_049_999, EQUAL),
        ("140.0M", 140_099_999, TRUNCATED),
        ("12K", 12_499, EQUAL),
        ("12K", 12_999, TRUNCATED),
        ("12K", 13_000, DIFFERENT),
        ("7", 7, EQUAL),
        ("7", 8, DIFFERENT),
        ("0", 0, EQUAL),
    ],
)
def test_verdicts(printed, ours, expected):
    assert verdict(printed, ours) == expected

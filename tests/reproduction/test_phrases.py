"""Counts, ranges and times in words."""

from __future__ import annotations

import pytest

from accuracy_booster.reproduction import phrases


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (phrases.count(1, "seed"), "1 seed"),
        (phrases.count(1200, "seed"), "1,200 seeds"),
        (phrases.ranges([4, 0, 2, 1]), "0-2, 4"),
        (phrases.ranges([]), ""),
        (phrases.of_declared(3, 5), "3 of 5"),
        (phrases.of_declared(7, 5), "7 (declared: 5)"),
        (phrases.one_line("a `b`\n c\x1b[31m"), "a 'b' c\\x1b[31m"),
        (phrases.name_list(["b", "a"]), "`a`, `b`"),
        (phrases.duration(0.05), "3 min"),
        (phrases.duration(3.21), "3.2 h"),
        (phrases.duration(1240), "1,240 h"),
    ],
)
def test_phrases(text, expected):
    assert text == expected

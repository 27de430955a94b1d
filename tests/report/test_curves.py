"""Curves can be told apart where they coincide, whatever matplotlib's style is."""

from __future__ import annotations

import re
from itertools import pairwise

import matplotlib
import pytest

from accuracy_booster.report.curves import Curve, draw_curves, legend, spread

ABOUT = {"title": "t", "x": "epoch", "y": "%", "scale": "percent"}


def curves(many: int) -> list[Curve]:
    return [Curve(f"block {i}", f"b{i}", [[50.0, 20.0, 10.0]] * 2) for i in range(many)]


@pytest.mark.parametrize(
    ("places", "height", "expected"),
    [
        ([10.0, 40.0, 90.0], 100, [10, 40, 90]),
        ([10.0, 10.0, 90.0], 100, [10, 22, 90]),
        ([95.0, 96.0, 97.0], 100, [76, 88, 100]),
        ([-20.0, 3.0], 100, [0, 12]),
        ([], 100, []),
    ],
)
def test_labels_keep_a_distance_and_their_order(places, height, expected):
    assert spread(places, height) == expected


def test_no_two_of_forty_curves_look_alike():
    keys = [(key["series"], key["dashes"], key["marker"]) for key in legend(curves(40))]
    assert len(set(keys)) == 40
    for first, second in pairwise(keys):
        assert all(a != b for a, b in zip(first, second, strict=True))


def test_each_curve_has_a_label_at_its_end():
    svg = draw_curves(curves(9), [1, 2, 3], **ABOUT)
    assert set(re.findall(r">(b\d)</text>", svg)) == {f"b{i}" for i in range(9)}


def test_runs_may_end_early():
    uneven = Curve("a", "a", [[4.0, 2.0, 1.0], [2.0, 4.0]])
    assert uneven.mean == [3, 3]
    assert "</svg>" in draw_curves([uneven, *curves(1)], [1, 2, 3], **ABOUT)


@pytest.mark.parametrize("scale", ["log", "percent", "linear"])
@pytest.mark.parametrize("values", [[0.0], [3.0, 3.0], [100.0, 99.0, 0.1]])
def test_any_values_can_be_drawn(values, scale):
    values = [max(v, 1e-6) for v in values] if scale == "log" else values
    one = Curve("a <b>", "a long name of a block", [values])
    svg = draw_curves([one], range(len(values)), title="t", x="x", y="y", scale=scale)
    assert "a long name..." in svg


def test_a_users_style_does_not_change_the_colours():
    plain = draw_curves(curves(2), [1, 2, 3], **ABOUT)
    style = {"text.color": "#222222", "axes.edgecolor": "0.15", "xtick.color": "black"}
    with matplotlib.rc_context({**style, "axes.labelcolor": "0.15", "font.size": 30}):
        assert draw_curves(curves(2), [1, 2, 3], **ABOUT) == plain
    assert "fill: #" not in re.sub(r"var\([^)]*\)", "", plain)

"""Figures and charts as SVG."""

from __future__ import annotations

import re
from xml.etree import ElementTree

import pytest

from accuracy_booster.report.figures import COLOURS, histogram, nice_step, to_themed_svg
from accuracy_booster.report.page import render


@pytest.mark.parametrize(("span", "step"), [(1, 0.2), (1.62, 0.5), (0.03, 0.01), (99, 20), (5, 1)])
def test_steps_are_round(span, step):
    assert nice_step(span) == pytest.approx(step)


def test_a_histogram_has_a_bar_for_each_bin_that_is_not_empty():
    chart = histogram([0, 3, 0, 1], 0, 1, x="x", y="y")
    assert chart["path"].count("M") == 2
    heights = [float(v) for v in re.findall(r"v-([\d.]+)", chart["path"])]
    assert heights[0] == pytest.approx(3 * heights[1], rel=0.01)
    assert [tick["text"] for tick in chart["y_ticks"]] == ["0", "1", "2", "3"]


def test_a_themed_figure_has_no_black_and_its_text_is_text():
    from matplotlib.figure import Figure

    figure = Figure()
    axes = figure.subplots()
    axes.plot([0, 1], [0, 1], color=COLOURS[2], label="a < b")
    axes.legend(frameon=False)
    text = to_themed_svg(figure)
    root = ElementTree.fromstring(text)
    assert "#000000" not in text
    assert f"var(--series-2, {COLOURS[2]})" in text
    assert "currentColor" in text
    assert "a < b" in [e.text for e in root.iter("{http://www.w3.org/2000/svg}text")]
    assert root.get("fill") == "currentColor"


def test_the_style_sheet_has_a_colour_for_each_series_in_both_themes():
    style = render("style.css")
    for i in range(len(COLOURS)):
        assert len(re.findall(rf"--series-{i}:", style)) == 2

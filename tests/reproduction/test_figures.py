"""The pictures of the report."""

from __future__ import annotations

import re
import xml.etree.ElementTree as ElementTree
from pathlib import Path

import numpy as np
import pytest
from support.results import CONFIRMED, CONTRADICTED, SMALL, TOO_SMALL, interval_of, put_small

from accuracy_booster.reproduction import figures, read_records
from accuracy_booster.reproduction.comparing import TableResult
from accuracy_booster.reproduction.findings import compare


def small_result(folder: Path) -> TableResult:
    put_small(folder)
    return compare(read_records(folder)).tables[0]


def test_the_picture_shows_what_was_found(tmp_path, monkeypatch):
    kept = []
    monkeypatch.setattr(figures, "to_svg", lambda figure: kept.append(figure) or "")
    result = small_result(tmp_path)
    figures.differences(result)
    (axes,) = kept[0].axes
    lines = [(line.get_marker(), list(map(float, line.get_xdata()))) for line in axes.lines]
    means = [x for marker, (x, *_) in lines if marker == "o"]
    diamonds = [x for marker, (x, *_) in lines if marker == "D"]
    in_order = sorted(result.pairs, key=lambda pair: pair.reference.block != "none")
    assert means == pytest.approx([pair.difference.mean for pair in in_order])
    assert diamonds == [1.3, 1.7, 2.3, 0.4, 1.0]
    plain = [xs for marker, xs in lines if marker == "None"]
    for label, reference in (("AB", "no block"), ("AB-Plus", "SE")):
        gains = np.array(SMALL[label]) - np.array(SMALL[reference])
        assert any(xs == pytest.approx(interval_of(gains)) for xs in plain)
        assert all(any(xs == pytest.approx([g, g]) for xs in plain) for g in gains)
    texts = [text.get_text() for text in axes.texts]
    assert texts[0] == "minus no block"
    words = [text for text in texts if text in (CONFIRMED, CONTRADICTED, TOO_SMALL)]
    assert words == [pair.verdict.word for pair in in_order]


def test_the_picture_is_an_svg_on_white(tmp_path):
    text = figures.differences(small_result(tmp_path))
    root = ElementTree.fromstring(text)
    assert float(root.get("width").removesuffix("pt")) == pytest.approx(600, abs=1)  # 800 pixels
    background = text[: text.index("<!-- minus no block -->")]
    assert re.search(r"fill: #ffffff", background)
    assert "<!-- confirmed -->" in text

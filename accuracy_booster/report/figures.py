"""Colours, matplotlib figures as SVG, and the geometry of small charts for HTML pages."""

from __future__ import annotations

import base64
import io
import math
import re
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from typing import Any

from accuracy_booster.report.numbers import short

# Okabe and Ito's colours, told apart by colour-blind readers too
COLOURS = ("#5b5b5b", "#e69f00", "#0072b2", "#d55e00", "#009e73", "#cc79a7", "#56b4e9", "#b8a500")


def look(**settings: Any) -> AbstractContextManager[None]:
    """Matplotlib's own settings while a picture is made, whatever a user's matplotlibrc says.

    A style with grey or white text would give text that a page cannot theme.
    """
    import matplotlib

    own: dict[Any, Any] = {
        "svg.hashsalt": "accuracy-booster",
        "font.family": "DejaVu Sans",
        **settings,
    }
    own |= settings
    return matplotlib.rc_context({**_defaults(), **own})


def _defaults() -> dict[Any, Any]:
    """Matplotlib's defaults, without the settings that `rc_context` warns of or should keep."""
    import matplotlib

    kept = ("backend", "backend_fallback", "interactive", "toolbar", "timezone", "date.epoch")
    return {k: v for k, v in matplotlib.rcParamsDefault.items() if k not in kept}


def to_svg(figure: Any) -> str:
    """A matplotlib figure as an <svg> element."""
    buffer = io.StringIO()
    figure.savefig(buffer, format="svg", metadata={"Date": None}, transparent=True)
    text = buffer.getvalue()
    return text[text.index("<svg") :]


def to_themed_svg(figure: Any, own: Mapping[str, str] | None = None) -> str:
    """A matplotlib figure as an <svg> element that takes the colours of the page around it.

    Black becomes the page's text colour. `COLOURS` become variables of the style sheet. Text stays
    text, so that it can be selected.

    Args:
        own: {a further colour of this figure: what it becomes}.
    """
    import matplotlib

    with matplotlib.rc_context({"svg.fonttype": "none"}):
        text = to_svg(figure)
    changes = {colour: f"var(--series-{i}, {colour})" for i, colour in enumerate(COLOURS)}
    for colour, becomes in {"#000000": "currentColor", **changes, **(own or {})}.items():
        text = re.sub(rf"(?<=: ){colour}\b", becomes, text)
    # black text has no fill of its own; said here, no style sheet around it can make it black again
    text = re.sub(r'<text style="(?![^"]*fill:)', '<text style="fill: currentColor; ', text)
    text = re.sub(r"font-family: [^;\"]*", "font-family: inherit", text)
    # matplotlib names its groups alike in every figure, and a page must not have an id twice
    text = re.sub(r'<g id="[^"]*"', "<g", text)
    return text.replace("<svg ", '<svg fill="currentColor" ', 1)


def data_uri(picture: Any, format: str = "PNG") -> str:
    """A PIL image as the data: address of a PNG or JPEG file."""
    buffer = io.BytesIO()
    picture.save(buffer, format, **({"quality": 82} if format == "JPEG" else {"optimize": True}))
    kind = format.lower()
    return f"data:image/{kind};base64,{base64.b64encode(buffer.getvalue()).decode()}"


# --- the geometry of charts, in pixels; `parts.html` draws them

WIDTH, HEIGHT = 420, 236
LEFT, RIGHT, TOP, BOTTOM = 48, 408, 28, 186


def nice_step(span: float, most: int = 5) -> float:
    """The least round number that divides `span` into at most `most` steps.

    Round numbers are 1, 2, 2.5 and 5, times a power of 10.
    """
    least = max(span, 1e-9) / most
    power = 10.0 ** math.floor(math.log10(least))
    return next(power * m for m in (1, 2, 2.5, 5, 10) if power * m >= least * (1 - 1e-9))


def histogram(
    counts: Sequence[float], low: float, high: float, *, x: str, y: str
) -> dict[str, Any]:
    """The geometry of a histogram: `counts` of equal bins between `low` and `high`."""
    top = max([*counts, 0]) or 1
    chart = _axes((low, high), (0, top), x=x, y=y, whole=all(float(c).is_integer() for c in counts))
    width = (RIGHT - LEFT) / len(counts)
    gap = min(1.0, width / 6)
    bars = []
    for i, count in enumerate(counts):
        if count:
            at, up = LEFT + i * width, (BOTTOM - TOP) * count / top
            up = max(up, 1.0)  # so that one can see that the bin is not empty
            bars.append(f"M{at + gap / 2:.1f} {BOTTOM}v{-up:.1f}h{width - gap:.1f}v{up:.1f}z")
    return {**chart, "path": "".join(bars)}


def line_chart(
    series: Mapping[str, Sequence[tuple[float, float]]], *, x: str, y: str
) -> dict[str, Any]:
    """The geometry of a chart of lines.

    Args:
        series: {name of a line: its points (x, y)}.
        x, y: the names of the axes.
    """
    xs = [px for points in series.values() for px, _ in points]
    ys = [py for points in series.values() for _, py in points]
    low, high = min(ys), max(ys)
    step = nice_step(high - low or 1)
    bounds = (math.floor(low / step) * step, math.ceil(high / step + 1e-9) * step)
    chart = _axes((min(xs), max(xs)), bounds, x=x, y=y)
    lines = []
    for name, points in series.items():
        dots = [
            (
                round(_place(px, (min(xs), max(xs)), LEFT + 8, RIGHT), 1),
                round(_place(py, bounds, BOTTOM, TOP), 1),
            )
            for px, py in sorted(points)
        ]
        lines.append({"name": name, "dots": dots, "points": " ".join(f"{a},{b}" for a, b in dots)})
    chart["x_ticks"] = [
        {"at": round(_place(v, (min(xs), max(xs)), LEFT + 8, RIGHT), 1), "text": f"{v:g}"}
        for v in sorted(set(xs))
    ]
    return {**chart, "lines": lines}


def _axes(
    xs: tuple[float, float], ys: tuple[float, float], *, x: str, y: str, whole: bool = False
) -> dict[str, Any]:
    return {
        **{"width": WIDTH, "height": HEIGHT, "left": LEFT, "right": RIGHT},
        **{"bottom": BOTTOM, "x": x, "y": y},
        "x_ticks": _ticks(xs, LEFT, RIGHT),
        "y_ticks": _ticks(ys, BOTTOM, TOP, most=4, whole=whole),
    }


def _ticks(
    bounds: tuple[float, float], start: float, end: float, most: int = 5, whole: bool = False
) -> list[dict[str, Any]]:
    low, high = bounds
    step = nice_step(high - low or 1, most)
    step = max(step, 1.0) if whole else step
    first = math.ceil(low / step - 1e-9)
    last = math.floor(high / step + 1e-9)
    return [
        {"at": round(_place(i * step, bounds, start, end), 1), "text": short(i * step)}
        for i in range(first, last + 1)
    ]


def _place(value: float, bounds: tuple[float, float], start: float, end: float) -> float:
    low, high = bounds
    return start + (end - start) * ((value - low) / (high - low) if high > low else 0.5)

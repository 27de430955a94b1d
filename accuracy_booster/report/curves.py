"""Curves that can be told apart where they coincide: by colour, dashes, marker, width and label."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import TYPE_CHECKING, Any

from accuracy_booster.report.figures import COLOURS, look, to_themed_svg

if TYPE_CHECKING:
    from matplotlib.axes import Axes

# Sizes are in inches. A phone shows a plot about as wide as this, so that its text stays legible.
WIDTH, HEIGHT = 4.6, 3.3
LEFT, BELOW, ABOVE = 0.62, 0.55, 0.32
CHARACTER = 0.083  # the width of a letter, about
GAP = 12.0  # points between the labels at the ends of two curves
TICKS = (0, 1, 2, 5, 10, 20, 50, 100)  # of an error in %
LONGEST = 14  # characters of such a label

# each marker: matplotlib's name, and its outline around (0, 0) for the legend of the page
MARKERS = (
    ("o", "M-4 0a4 4 0 1 0 8 0a4 4 0 1 0 -8 0z"),
    ("s", "M-3.5-3.5h7v7h-7z"),
    ("^", "M0-4.5L4.5 3.5h-9z"),
    ("D", "M0-4.8L4.8 0L0 4.8L-4.8 0z"),
    ("v", "M0 4.5L4.5-3.5h-9z"),
    ("P", "M-1.5-4.5h3v3h3v3h-3v3h-3v-3h-3v-3h3z"),
    ("X", "M-4-2l2-2l2 2l2-2l2 2l-2 2l2 2l-2 2l-2-2l-2 2l-2-2l2-2z"),
    ("<", "M-4.5 0L3.5-4.5v9z"),
)
DASHES = ((), (6, 2), (2, 1.6), (7, 1.8, 1.6, 1.8), (3.4, 1.4, 1, 1.4, 1, 1.4))


@dataclass(frozen=True)
class Curve:
    """What is drawn as one curve: several runs, of which the mean is drawn thick.

    Attributes:
        name: in the legend.
        label: a short name, at the curve's end.
        runs: of each run, a value for each x, from the first on. Runs may end early.
    """

    name: str
    label: str
    runs: Sequence[Sequence[float]]

    @property
    def mean(self) -> list[float]:
        """The mean of the runs, which ends with the shortest of them."""
        return [fmean(values) for values in zip(*self.runs, strict=False)]


def draw_curves(
    curves: Sequence[Curve], xs: Sequence[float], *, title: str, x: str, y: str, scale: str
) -> str:
    """An <svg> of curves over `xs`, in the colours of the page around it.

    Args:
        title, x, y: the names of the plot and of its axes.
        scale: "log"; "percent", logarithmic but with room for 0; or "linear".
    """
    from matplotlib.figure import Figure
    from matplotlib.ticker import LogLocator, MaxNLocator, NullFormatter

    with look():
        figure = Figure(figsize=(WIDTH, HEIGHT))
        right = 0.25 + CHARACTER * max(len(_short(curve.label)) for curve in curves)
        axes = figure.add_axes(
            (
                *(LEFT / WIDTH, BELOW / HEIGHT),
                *((WIDTH - LEFT - right) / WIDTH, (HEIGHT - BELOW - ABOVE) / HEIGHT),
            )
        )
        for i, curve in enumerate(curves):
            _draw(axes, curve, xs, i, len(curves))
        if scale == "log":
            axes.set_yscale("log")
            axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        elif scale == "percent":
            axes.set_yscale("symlog", linthresh=1)
            every = [value for curve in curves for values in curve.runs for value in values]
            low, high = max(t for t in TICKS if t <= max(0, min(every))), 1.1 * max(every)
            axes.set_yticks([tick for tick in TICKS if low <= tick <= high])
            axes.set_ylim(low, max(high, low + 1))
        axes.set_title(title)
        axes.set(xlabel=x, ylabel=y)
        axes.yaxis.set_major_formatter("{x:g}")
        axes.yaxis.set_minor_formatter(NullFormatter())
        axes.xaxis.set_major_locator(MaxNLocator(nbins=5, integer=True, min_n_ticks=1))
        axes.grid(alpha=0.25)
        axes.spines[["top", "right"]].set_visible(False)
        _label_ends(axes, curves, xs)
        return to_themed_svg(figure)


def legend(curves: Sequence[Curve]) -> list[dict[str, Any]]:
    """What the macro `keys` of `parts.html` shows of each curve."""
    return [
        {
            "name": curve.name,
            "series": i % len(COLOURS),
            "dashes": " ".join(f"{2 * part:g}" for part in _dashes(i)),
            "marker": MARKERS[i % len(MARKERS)][1],
        }
        for i, curve in enumerate(curves)
    ]


def _dashes(i: int) -> tuple[float, ...]:
    # two curves of the same colour and marker have other dashes
    return DASHES[(i + i // len(COLOURS)) % len(DASHES)]


def _draw(axes: Axes, curve: Curve, xs: Sequence[float], i: int, many: int) -> None:
    """Draw a curve. Later ones are thinner, so that the earlier one shows where they coincide."""
    colour, dashes = COLOURS[i % len(COLOURS)], _dashes(i)
    below = (many - 1 - i) / max(1, many - 1)
    if len(curve.runs) > 1:
        for values in curve.runs:
            axes.plot(xs[: len(values)], values, color=colour, linewidth=0.7, alpha=0.45)
    mean = curve.mean
    axes.plot(
        xs[: len(mean)],
        mean,
        color=colour,
        linewidth=1.6 + 1.4 * below,
        linestyle=(0, dashes) if dashes else "-",
        marker=MARKERS[i % len(MARKERS)][0],
        markersize=4 + 4 * below,
        markeredgewidth=0,
        markevery=max(1, len(xs) // 8),
    )


def _label_ends(axes: Axes, curves: Sequence[Curve], xs: Sequence[float]) -> None:
    """Write each curve's label beside its end, moved up or down where two would overlap."""
    ends = [curve.mean[-1] for curve in curves]
    figure = axes.get_figure()
    assert figure is not None
    box, dots = axes.get_window_extent(), 72 / figure.dpi
    height = box.height * dots
    at = [(axes.transData.transform((xs[-1], end))[1] - box.y0) * dots for end in ends]
    order = sorted(range(len(at)), key=at.__getitem__)
    inch = 1 / (WIDTH * axes.get_position().width)
    for i, place in zip(order, spread(sorted(at), height), strict=True):
        beside, here = axes.transAxes, place / height
        axes.plot(
            [1 + 0.1 * inch],
            [here],
            transform=beside,
            clip_on=False,
            color=COLOURS[i % len(COLOURS)],
            marker=MARKERS[i % len(MARKERS)][0],
            markersize=5,
            markeredgewidth=0,
        )
        axes.text(1 + 0.17 * inch, here, _short(curves[i].label), transform=beside, va="center")


def spread(places: Sequence[float], height: float, gap: float = GAP) -> list[float]:
    """Sorted places, moved so that neighbours are `gap` apart and, if they can be, in [0, height].

    What need not move stays where it is.
    """
    moved: list[float] = []
    for place in places:
        moved.append(max(place, 0.0, moved[-1] + gap if moved else 0.0))
    above = height
    for i in reversed(range(len(moved))):
        moved[i] = min(moved[i], above)
        above = moved[i] - gap
    return moved


def _short(label: str) -> str:
    return label if len(label) <= LONGEST else f"{label[: LONGEST - 3]}..."

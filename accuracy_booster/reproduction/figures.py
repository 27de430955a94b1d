"""The pictures of the report as SVG: a table's paired differences, and a layer's mean weights."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING, Any

from accuracy_booster.report.figures import COLOURS, look, to_svg, to_themed_svg
from accuracy_booster.reproduction import cells
from accuracy_booster.reproduction.comparing import Pair, TableResult
from accuracy_booster.reproduction.phrases import of_declared

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

# All sizes are in inches.
WIDTH = 8.33  # of the picture: 800 pixels
LINE = 0.32  # the height of a row of the picture
ABOVE, BELOW = 0.75, 0.85  # the space above and below the rows
CHARACTER = 0.072  # the width of a letter, about
OURS, PAPER, INK, FAINT, GRID = COLOURS[2], COLOURS[3], "#1c1c1c", "#8c8c8c", "#e4e4e4"
NO_PAIR = "No pair of runs has ended."


def differences(result: TableResult | None, *, themed: bool = False) -> str:
    """An <svg> of the mean differences with their intervals, grouped by reference.

    The same results give the same bytes. If no pair of runs has ended, the picture says so.

    Args:
        result: the table; None for an empty picture.
        themed: whether the picture is for an HTML page and takes the page's colours.
    """
    return _svg(_figure(result), themed)


def histogram(means: Sequence[float], *, themed: bool = False) -> str:
    """An <svg> of the mean weights of a layer's channels: the paper's Figure 3."""
    from matplotlib.figure import Figure
    from matplotlib.ticker import MaxNLocator

    with _look():
        figure = Figure(figsize=(5.2, 2.9), layout="constrained")
        axes = figure.subplots()
        axes.hist(means, bins=20, color=OURS, rwidth=0.92)
        axes.set_xlabel("mean weight of a channel over the test images", color=INK)
        axes.set_ylabel("channels", color=INK)
        axes.spines[["top", "right"]].set_visible(False)
        axes.spines[["bottom", "left"]].set_color(FAINT)
        axes.tick_params(color=FAINT, labelcolor=INK)
        axes.yaxis.set_major_locator(MaxNLocator(integer=True))
    return _svg(figure, themed)


def _svg(figure: Figure, themed: bool) -> str:
    from matplotlib.patches import Rectangle

    with _look():
        if themed:
            return to_themed_svg(figure, {INK: "currentColor", GRID: "var(--line)"})
        # the figure is transparent: on a dark page it needs a white ground
        figure.add_artist(
            Rectangle((0, 0), 1, 1, transform=figure.transFigure, color="white", zorder=-1)
        )
        return to_svg(figure)


def _look() -> AbstractContextManager[None]:
    """Matplotlib's settings while a picture is made."""
    return look(**{"font.size": 9})


def _figure(result: TableResult | None) -> Figure:
    from matplotlib.figure import Figure

    groups = {} if result is None else _groups(result)
    lines = max(2, sum(1 + len(pairs) for pairs in groups.values()))
    height = ABOVE + LINE * lines + BELOW
    with _look():
        figure = Figure(figsize=(WIDTH, height))
        if result is None or not groups:
            figure.text(0.5, 0.5, NO_PAIR, ha="center", va="center", color=INK)
        else:
            _draw(figure, result, groups, height)
    return figure


def _groups(result: TableResult) -> dict[str, list[Pair]]:
    """The pairs that have a difference, by the heading of their reference."""
    found: dict[str, list[Pair]] = {}
    for pair in result.pairs:
        found.setdefault(pair.reference.heading, [])
        if pair.difference is not None:
            found[pair.reference.heading].append(pair)
    return {heading: pairs for heading, pairs in found.items() if pairs}


def _draw(
    figure: Figure, result: TableResult, groups: dict[str, list[Pair]], height: float
) -> None:
    pairs = [pair for group in groups.values() for pair in group]
    labels = [result.label(pair.row) for pair in pairs] + [f"minus {name}" for name in groups]
    left = 0.35 + CHARACTER * max(map(len, labels))
    right = 0.25 + CHARACTER * max(len(_verdict(pair)) for pair in pairs)
    lines = sum(1 + len(group) for group in groups.values())
    axes = figure.add_axes(
        (
            *(left / WIDTH, BELOW / height),
            *((WIDTH - left - right) / WIDTH, LINE * lines / height),
        )
    )
    line = 0
    for name, group in groups.items():
        beside = axes.get_yaxis_transform()
        axes.text(-0.02, line, f"minus {name}", transform=beside, **_text("right"), weight="bold")
        for pair in group:
            line += 1
            label, word = result.label(pair.row), _verdict(pair)
            axes.text(-0.02, line, label, transform=beside, **_text("right"))
            axes.text(1.02, line, word, transform=beside, **_text("left"))
            _draw_pair(axes, pair, line)
        line += 1
    axes.axvline(0, color=INK, linewidth=1, zorder=1)
    axes.set_ylim(lines - 0.4, -0.6)
    axes.set_yticks([])
    axes.margins(x=0.06)
    axes.grid(axis="x", color=GRID, linewidth=0.8)
    axes.set_axisbelow(True)
    axes.spines[["top", "right", "left"]].set_visible(False)
    axes.spines["bottom"].set_color(FAINT)
    axes.tick_params(axis="x", color=FAINT, labelcolor=INK)
    axes.xaxis.set_major_formatter(lambda x, _: f"{x:+.6g}" if abs(x) > 1e-9 else "0")
    axes.set_xlabel(cells.unit(result), color=INK)
    inch = 1 / height
    figure.text(0.012, 1 - 0.28 * inch, result.table.title, **_text("left"), weight="bold", size=11)
    figure.text(0.012, 1 - 0.53 * inch, _subtitle(result), **_text("left"))
    _legend(figure, result, any(pair.printed is not None for pair in pairs))


def _subtitle(result: TableResult) -> str:
    """The line below the title: the budget, its epochs, and the number of seeds."""
    what = "repetitions" if result.has_times else "seeds"
    least = min(len(p.difference.seeds) for p in result.pairs if p.difference is not None)
    most = max(len(p.difference.seeds) for p in result.pairs if p.difference is not None)
    number = of_declared(most, result.table.seeds)
    number = number if least == most else f"{least} to {number}"
    epochs = "" if result.has_times else _epochs(result)
    return f"Budget {result.budget}{epochs}; {number} {what}"


def _epochs(result: TableResult) -> str:
    numbers = sorted({row.spec.config.epochs for row in result.rows})
    return f": {', '.join(map(str, numbers))} epoch{'s'[: numbers != [1]]}"


def _verdict(pair: Pair) -> str:
    so_far = " so far" if pair.verdict.so_far else ""
    return f"{pair.verdict.word}{so_far}"


def _text(side: str) -> dict[str, Any]:
    """The style of a text that ends ("right") or begins ("left") at its place."""
    return {"ha": side, "va": "center", "color": INK}


def _draw_pair(axes: Axes, pair: Pair, line: float) -> None:
    difference = pair.difference
    assert difference is not None
    for value in difference.by_seed.values():
        axes.plot([value, value], [line - 0.2, line + 0.2], color=OURS, alpha=0.55, linewidth=1)
    if difference.interval is not None:
        axes.plot(difference.interval, [line, line], color=OURS, linewidth=2.4, zorder=3)
    axes.plot([difference.mean], [line], marker="o", color=OURS, markersize=7, zorder=4)
    if pair.printed is not None:
        axes.plot([pair.printed], [line], **_diamond())


def _diamond() -> dict[str, Any]:
    """The mark of the paper's difference."""
    return {
        **{"marker": "D", "markerfacecolor": "none", "markeredgecolor": PAPER, "markersize": 8},
        **{"markeredgewidth": 1.8, "linestyle": "none", "zorder": 5},
    }


def _legend(figure: Figure, result: TableResult, has_printed: bool) -> None:
    from matplotlib.lines import Line2D

    each = "each repetition" if result.has_times else "each seed"
    handles = [
        Line2D([], [], color=OURS, marker="o", linewidth=2.4, label="ours: mean, 95 % interval"),
        Line2D([], [], color=OURS, marker="|", markersize=9, linestyle="none", label=each),
    ]
    if has_printed:
        whose = f" ({result.table.printed_for})" if result.table.printed_for else ""
        handles.append(Line2D([], [], **_diamond(), label=f"the paper's{whose}"))
    figure.legend(handles=handles, loc="lower center", ncols=3, frameon=False, labelcolor=INK)

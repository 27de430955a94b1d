"""Numbers by which the page's picture of a network can be coloured, one for each gate."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from accuracy_booster.inspection.results import Inspection
from accuracy_booster.report.figures import nice_step
from accuracy_booster.report.numbers import MISSING, number, signed

LEVELS = 5  # colours from faint ("1") to strong ("5")
NONE, GAIN = "none", "gain"  # levels too: no change that the images tell, and a gain of accuracy


@dataclass(frozen=True)
class Measure:
    """A number of each gate, and the colour that it stands for.

    Attributes:
        key: a word for the page's script.
        title: the text of its button.
        meaning: one sentence.
        levels: the legend: (level, what it stands for).
        cells: {site: (level, number as text)}.
    """

    key: str
    title: str
    meaning: str
    levels: tuple[tuple[str, str], ...]
    cells: Mapping[str, tuple[str, str]]


def measures(inspection: Inspection) -> list[Measure]:
    """The measures that this inspection has numbers for, the most telling one first."""
    gates = inspection.gates
    found = []
    if inspection.frozen:
        found.append(_lost(inspection))
    spreads = {site: float(gate.spread.mean()) for site, gate in gates.items()}
    found.append(
        _measure(
            "spread",
            "Spread across images",
            "The standard deviation of a channel's weight across images, the mean of all channels.",
            spreads,
            lambda v, digits: number(v, max(digits, 3)),
        )
    )
    explained = {site: 100 * e for site, gate in gates.items() if (e := gate.explained) is not None}
    if explained:
        found.append(
            _measure(
                "explained",
                "Explained by the class",
                "The share of the variance of the weights across images that the class explains.",
                explained,
                _percent,
            )
        )
    found.append(
        _measure(
            "saturated",
            "Saturated",
            "The share of the weights under 0.05 or over 0.95 of the scale.",
            {site: 100 * gate.saturated for site, gate in gates.items()},
            _percent,
        )
    )
    found.append(
        _measure(
            "mean",
            "Mean weight",
            "The mean of all weights of the block.",
            {site: float(gate.mean.mean()) for site, gate in gates.items()},
            lambda v, digits: number(v, max(digits, 2)),
            from_zero=False,
        )
    )
    return found


def _percent(value: float, digits: int) -> str:
    return f"{number(value, max(digits, 0 if value >= 9.95 else 1))} %"


def _lost(inspection: Inspection) -> Measure:
    """The change of accuracy when a gate alone is frozen; its levels are losses in points."""
    losses = {site: -found.change for site, found in inspection.frozen.items()}
    told = [loss for site, loss in losses.items() if inspection.frozen[site].tells and loss > 0]
    step, digits = _steps(max(told, default=1.0))
    cells, gains = {}, False
    for site in inspection.gates:
        found = inspection.frozen.get(site)
        if found is None:
            cells[site] = (NONE, MISSING)
            continue
        level = NONE
        if found.tells:
            level = GAIN if found.change > 0 else _level(losses[site], 0, step)
            gains |= level == GAIN
        cells[site] = (level, signed(found.change))
    levels = [(NONE, "no change that these images tell")]
    levels += _legend(0, step, lambda v: number(v, digits), cells, " points lost") if told else []
    levels += [(GAIN, "more accurate when frozen")] if gains else []
    return Measure(
        "frozen",
        "Change when frozen",
        "By how many points top-1 changes when this gate alone gives each channel its mean weight "
        "on every image.",
        tuple(levels),
        cells,
    )


def _measure(
    key: str,
    title: str,
    meaning: str,
    values: Mapping[str, float],
    write: Callable[[float, int], str],
    *,
    from_zero: bool = True,
) -> Measure:
    """A measure with levels of equal width, from 0 or from the least value.

    Args:
        write: (value, digits that the bounds need) -> its text.
    """
    low = 0.0 if from_zero else min(values.values(), default=0.0)
    high = max(values.values(), default=0.0)
    step, digits = _steps(high - low if high > low else 0.01)
    low = math.floor(low / step + 1e-9) * step
    if (high - low) / step > LEVELS:  # rounding `low` down made the span longer
        step, digits = _steps((high - low) * 1.2)
        low = math.floor(low / step + 1e-9) * step
    cells = {
        site: (_level(value, low, step), write(value, digits)) for site, value in values.items()
    }
    levels = _legend(low, step, lambda v: write(v, digits), cells)
    return Measure(key, title, meaning, tuple(levels), cells)


def _steps(span: float) -> tuple[float, int]:
    """The width of a level, and how many digits after the point its bounds need."""
    step = nice_step(span, LEVELS)
    digits = max(0, -math.floor(math.log10(step) + 1e-9))
    return step, digits if math.isclose(round(step, digits), step) else digits + 1


def _level(value: float, low: float, step: float) -> str:
    return str(min(LEVELS, max(1, 1 + math.floor((value - low) / step + 1e-9))))


def _legend(
    low: float,
    step: float,
    write: Callable[[float], str],
    cells: Mapping[str, tuple[str, str]],
    unit: str = "",
) -> list[tuple[str, str]]:
    """(level, its bounds) of the levels, up to the highest one that a gate has."""
    most = max(int(level) for level, _ in cells.values() if level.isdigit())
    bounds = [low + i * step for i in range(most + 1)]
    return [
        (str(i + 1), f"{write(bounds[i])} to {write(bounds[i + 1])}{unit if not i else ''}")
        for i in range(most)
    ]

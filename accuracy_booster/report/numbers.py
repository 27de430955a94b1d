"""Numbers as text for reports."""

from __future__ import annotations

MINUS, MISSING = "\N{MINUS SIGN}", "\N{EN DASH}"


def number(value: float, digits: int = 2) -> str:
    """A number with so many digits after the point, a minus sign, and no minus zero."""
    text = f"{value:.{digits}f}"
    return text.lstrip("-") if float(text) == 0 else text.replace("-", MINUS)


def signed(value: float, digits: int = 2) -> str:
    """A change: +0.12, \N{MINUS SIGN}0.12 or 0.00."""
    text = number(value, digits)
    return f"+{text}" if value > 0 and float(text) else text


def short(value: float) -> str:
    """A number beside an axis: 0.25, 40, 12k."""
    if abs(value) >= 10_000:
        return f"{value / 1000:g}k"
    return f"{round(value, 9):g}"

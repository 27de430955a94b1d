"""What every part of a recipe has in common, and the checks of its arguments.

`parts.py` has the parts themselves.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, fields
from typing import ClassVar, Literal

from torch import nn

from accuracy_booster.blocks.initialising import INITS
from accuracy_booster.errors import SHOWN, shortened, shown

# What a part takes and gives: a vector [N, C], a map [N, C, h, w], two planes [N, 2, H, W] or one
# plane [N, 1, H, W]. Space may have 0 to 3 dimensions.
Kind = Literal["map", "vector", "planes", "plane"]
Value = int | float | bool | str
# the largest kernel, and the largest extent of Gather-Excite's gather
MAX_KERNEL, MAX_EXTENT = 255, 4096
ODD = f"an odd number up to {MAX_KERNEL}"

MEANING: dict[Kind, str] = {
    "map": "a feature map",
    "vector": "one value per channel",
    "planes": "two values per position",
    "plane": "one value per position",
}


@dataclass(frozen=True)
class Context:
    """What a part must know to build its layer.

    Attributes:
        kind: what it is given.
        spatial_size: the size of the map, where it is known.
        bias_is_dead: a batch norm follows that removes every bias added here.
        spatial_dims: the dimensions of space; 0 for [N, C], where a map is a vector.
    """

    kind: Kind
    channels: int
    spatial_size: tuple[int, ...] | None
    bias_is_dead: bool
    spatial_dims: int = 2


@dataclass(frozen=True)
class Part:
    """A step of a recipe. Its fields are its arguments; `__post_init__` checks them."""

    name: ClassVar[str]
    positional: ClassVar[tuple[str, ...]] = ()  # printed without their keyword
    takes: ClassVar[tuple[Kind, ...]] = ("map", "vector")
    # whether a constant added to the part's input adds a constant to its output
    keeps_shifts: ClassVar[bool] = False

    def gives(self, kind: Kind) -> Kind:
        return kind

    @property
    def needs_spatial_size(self) -> bool:
        return False

    @property
    def has_parameters(self) -> bool:
        return any(f.name == "init" for f in fields(self))

    def build(self, at: Context) -> nn.Module:
        raise NotImplementedError

    def __str__(self) -> str:
        shown = []
        for f in fields(self):
            value = getattr(self, f.name)
            if f.name in self.positional:
                shown.append(_text(value))
            elif value != f.default:
                shown.append(f"{f.name}={_text(value)}")
        return f"{self.name}({', '.join(shown)})" if shown else self.name


def _text(value: Value | None) -> str:
    return str(value).lower() if isinstance(value, bool) else f"{value}"


def quoted(value: object) -> str:
    """A value in an error. It may be anything, so it is shortened."""
    return shortened(value, SHOWN) if isinstance(value, str) else shown(value)


def check(part: Part, argument: str, ok: bool, rule: str) -> None:
    if not ok:
        value = getattr(part, argument)
        value = _text(value) if isinstance(value, bool) else quoted(value)
        raise ValueError(f"{part.name}: {argument}={value} must be {rule}")


def is_int(value: object, least: int = 1) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= least


def is_odd(value: object) -> bool:
    return is_int(value) and value % 2 == 1 and value <= MAX_KERNEL  # type: ignore[operator]


def is_number(value: object) -> bool:
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return False
    try:
        return math.isfinite(value)
    except OverflowError:  # a whole number too large for a float
        return False


def check_init(part: Part) -> None:
    """Check the argument `init` of a part whose layer has weights."""
    check(part, "init", part.init in INITS, f"one of {', '.join(INITS)}")  # type: ignore[attr-defined]


def check_weighted(part: Part) -> None:
    """Check the arguments `init` and `bias` of a part whose layer has weights and a bias."""
    check_init(part)
    bias = part.bias  # type: ignore[attr-defined]
    check(part, "bias", bias is None or isinstance(bias, bool), "true or false")


def has_bias(bias: bool | None, at: Context) -> bool:
    return not at.bias_is_dead if bias is None else bias


def require_size(part: Part, at: Context) -> tuple[int, ...]:
    require_space(part, at)
    if at.spatial_size is None:
        names = {1: "(L,)", 2: "(H, W)", 3: "(D, H, W)"}[at.spatial_dims]
        raise ValueError(
            f"{part} has a weight for each position of the map, so it needs the map's size: pass "
            f"spatial_size={names} to Recalibrate, or input_size=(C, H, W) to create_model"
        )
    return at.spatial_size


def require_space(part: Part, at: Context) -> None:
    if at.spatial_dims == 0:
        raise ValueError(
            f"{part} needs positions, and [N, {at.channels}] has none; use a block that reads the "
            "mean alone, such as ab, ab_plus, se or eca"
        )


def check_divides(groups: int, channels: int) -> None:
    """Raise ValueError, with the nearest divisors, unless the groups divide the channels."""
    if channels % groups == 0:
        return
    divisors = [d for d in range(1, channels + 1) if channels % d == 0]
    below = max(d for d in divisors if d <= groups)
    above = [d for d in divisors if d > groups][:1]
    near = " or ".join(str(d) for d in [below, *above])
    raise ValueError(f"groups={quoted(groups)} must divide channels={channels}; try {near}")

"""What a recipe is: one or more gates, each a chain of parts, with the rules of what fits together.

`parsing.parse` makes a recipe of its text, `str(recipe)` makes the text again, and `to_dict` and
`from_dict` are for JSON.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, fields, replace
from typing import Any

from accuracy_booster.blocks import versions
from accuracy_booster.blocks.part import MEANING, Kind, Part
from accuracy_booster.blocks.parts import PARTS, Bn, Gap, Gather, Sigmoid
from accuracy_booster.errors import shown, unknown

MAX_TEXT = 10_000  # characters of a recipe's text; the longest in the table has 80
MAX_PARTS = MAX_TEXT // 2  # as many parts as such a text can have


class GateMisfit(ValueError):
    """Parts of a gate that do not fit together. `place` is the index of the part at fault."""

    def __init__(self, reason: str, place: int):
        super().__init__(reason)
        self.place = place


@dataclass(frozen=True)
class GateRecipe:
    """One gate: its descriptors (most gates have one), and the parts that make weights of them."""

    descriptors: tuple[Part, ...]
    weigh: tuple[Part, ...]

    def __post_init__(self) -> None:
        for _ in self.flow():
            pass

    def flow(self) -> Iterator[tuple[Part, Kind, int]]:
        """Each part with the kind of its input and its index.

        Raises:
            GateMisfit: if the parts do not fit together.
        """
        parts, count = self.parts, len(self.descriptors)
        if not count:
            raise GateMisfit("a gate starts with what describes the feature map, such as gap", 0)
        kinds: list[Kind] = []
        for place, part in enumerate(self.descriptors):
            if isinstance(part, Sigmoid):
                raise GateMisfit("sigmoid needs something to act on, such as gap", place)
            if "map" not in part.takes:
                raise GateMisfit(f"{part.name} cannot describe a feature map", place)
            yield part, "map", place
            kinds.append(part.gives("map"))
        if len(set(kinds)) > 1:
            given = " and ".join(f"{MEANING[kind]}" for kind in kinds)
            raise GateMisfit(f"the descriptors of a sum must be alike; these are {given}", 0)
        kind = kinds[0]
        for place, part in enumerate(self.weigh, start=count):
            if isinstance(parts[place - 1], Sigmoid):
                raise GateMisfit("nothing follows sigmoid; a further gate follows a ';'", place)
            if kind not in part.takes:
                wanted = " or ".join(MEANING[k] for k in part.takes)
                raise GateMisfit(f"{part.name} takes {wanted}, not {MEANING[kind]}", place)
            yield part, kind, place
            kind = part.gives(kind)
        if not isinstance(parts[-1], Sigmoid):
            raise GateMisfit("a gate ends in sigmoid", len(parts))

    @property
    def parts(self) -> tuple[Part, ...]:
        return self.descriptors + self.weigh

    @property
    def scale(self) -> float:
        """The factor s in p = s * sigmoid(...)."""
        assert isinstance(self.weigh[-1], Sigmoid)
        return self.weigh[-1].scale

    @property
    def reads_only_mean(self) -> bool:
        """Whether the gate depends on nothing but each channel's mean: the fast path needs it."""
        return self.descriptors in ((Gap(),), (Gather(),))

    def bias_is_dead(self, place: int) -> bool:
        """Whether a later batch norm removes a bias that the part at index `place` adds."""
        for part in self.weigh[max(0, place + 1 - len(self.descriptors)) :]:
            if isinstance(part, Bn):
                return True
            if not part.keeps_shifts:
                return False
        return False

    def as_identity(self) -> GateRecipe:
        """The same gate, starting at p = 2 * sigmoid(0) = 1.

        The last factor before the sigmoid starts at zero. The others do not: with two factors at
        zero neither would get a gradient.

        Raises:
            ValueError: for a gate without parameters.
        """
        parts = list(self.parts)
        weighted = [i for i, part in enumerate(parts) if part.has_parameters]
        if not weighted:
            raise ValueError(
                f"{self} has no parameters that could start it as the identity; use init='paper'"
            )
        parts[weighted[-1]] = replace(parts[weighted[-1]], init="zeros")  # type: ignore[call-arg]
        parts[-1] = replace(parts[-1], scale=2)  # type: ignore[call-arg]
        count = len(self.descriptors)
        return GateRecipe(tuple(parts[:count]), tuple(parts[count:]))

    def __str__(self) -> str:
        return " | ".join([" + ".join(map(str, self.descriptors)), *map(str, self.weigh)])


@dataclass(frozen=True)
class Recipe:
    """What a re-calibration block computes: one gate, or several one after the other.

    `str(recipe)` is its text. `ab.recipe` reads the text as an equal recipe.
    """

    gates: tuple[GateRecipe, ...]

    def __post_init__(self) -> None:
        if not self.gates:
            raise ValueError("a recipe has at least one gate")

    @property
    def needs_spatial_size(self) -> bool:
        """Whether it has a weight for each position, so that the map's size must be given."""
        return any(part.needs_spatial_size for gate in self.gates for part in gate.parts)

    def as_identity(self) -> Recipe:
        """The same recipe with gates that start at p = 1 (`ab.boost(..., init="identity")`)."""
        return Recipe(tuple(gate.as_identity() for gate in self.gates))

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON: every argument of each part, and the grammar's version."""

        def plain(part: Part) -> dict[str, Any]:
            return {"part": part.name, **asdict(part)}

        return {
            "version": versions.VERSION,
            "gates": [
                {"descriptors": [*map(plain, g.descriptors)], "weigh": [*map(plain, g.weigh)]}
                for g in self.gates
            ],
        }

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Recipe:
        """The recipe of `to_dict`'s values. Values without a version are of version 1.

        Raises:
            ValueError: for an unknown part, argument or version, parts that do not fit together, or
                more than `MAX_PARTS` parts.
        """

        def part(entry: Mapping[str, Any]) -> Part:
            arguments = dict(entry)
            return make_part(arguments.pop("part", "(none)"), arguments, version)

        try:
            version = versions.checked(data.get("version", 1))
            gates = data["gates"]
            count = sum(len(g["descriptors"]) + len(g["weigh"]) for g in gates)
            if count > MAX_PARTS:
                raise ValueError(f"a recipe of {count:,} parts; it may have up to {MAX_PARTS:,}")
            return cls(
                tuple(
                    GateRecipe(tuple(map(part, g["descriptors"])), tuple(map(part, g["weigh"])))
                    for g in gates
                )
            )
        except (KeyError, TypeError, AttributeError) as e:
            raise ValueError(f"not a recipe: {shown(data)} ({shown(e)})") from None

    def to_json(self) -> str:
        return json.dumps(self.to_dict())

    @classmethod
    def from_json(cls, text: str) -> Recipe:
        try:
            return cls.from_dict(json.loads(text))
        except RecursionError:
            raise ValueError(f"not a recipe: {shown(text)} is nested too deeply") from None

    def __str__(self) -> str:
        return " ; ".join(map(str, self.gates))


def make_part(name: str, given: Mapping[str, Any], version: int) -> Part:
    arguments = versions.with_former_defaults(name, given, version)
    if name not in PARTS:
        raise unknown("part", name, PARTS)
    known = [f.name for f in fields(PARTS[name])]
    for argument in arguments:
        if argument not in known:
            takes = f"takes {', '.join(known)}" if known else "takes no arguments"
            raise ValueError(f"{name} has no argument {shown(argument)}; it {takes}")
    return PARTS[name](**arguments)

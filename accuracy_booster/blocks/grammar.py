"""The grammar of blocks: a recipe is text, a frozen dataclass and JSON, each made from the others.

    recipe  := gate (";" gate)*              one gate after the other (CBAM: channels, then space)
    gate    := part ("+" part)* ("|" part)*  describe, weigh; the last part is `sigmoid`
    part    := name [ "(" argument ("," argument)* ")" ]
    argument := value | name "=" value       a number, true, false, C (the channels) or a word

`gap | dense(groups=C) | bn | sigmoid` is AB. With `a + b` each descriptor passes, with shared
weights, through the parts up to the first `bn` or `sigmoid`, and the results are summed there
(CBAM: `gap + gmp | bottleneck(16) | sigmoid`).
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, fields, replace
from typing import Any

from accuracy_booster.blocks import versions
from accuracy_booster.blocks.parts import MEANING, PARTS, Bn, Gap, Gather, Kind, Part, Sigmoid
from accuracy_booster.errors import shown, unknown

MAX_TEXT = 10_000  # characters of a recipe; the longest in the table has 80
MAX_PARTS = MAX_TEXT // 2  # of a recipe: as many as such a text can have
AROUND = 60  # characters that an error shows on each side of a position


class RecipeError(ValueError):
    """A recipe's text that does not parse. `position` is the index in `text` (0 is the first)."""

    def __init__(self, text: str, position: int, reason: str):
        rest = text[position : position + MAX_TEXT].strip()[:24]
        here = repr(rest) if rest else "the end"
        where = f"recipe {_around(text, position)}, position {position} ({here})"
        super().__init__(f"{where}: {reason}")
        self.text, self.position, self.reason = text, position, reason


def _around(text: str, position: int) -> str:
    """A text, or of a long one the piece around a position."""
    first = position - AROUND if position > AROUND + 10 else 0
    last = position + AROUND if position < len(text) - AROUND - 10 else len(text)
    return f"{'... ' * (first > 0)}{text[first:last]!r}{' ...' * (last < len(text))}"


@dataclass(frozen=True)
class GateRecipe:
    """One gate: the descriptors that are summed (most have one), and the parts that weigh them."""

    descriptors: tuple[Part, ...]
    weigh: tuple[Part, ...]

    def __post_init__(self):
        for _ in self.flow():
            pass

    def flow(self) -> Iterator[tuple[Part, Kind, int]]:
        """Each part with the kind it gets and its place; checks that they fit together.

        Raises:
            GateMisfit: where they do not.
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
        """s in p = s * sigmoid(...)."""
        assert isinstance(self.weigh[-1], Sigmoid)
        return self.weigh[-1].scale

    @property
    def reads_only_mean(self) -> bool:
        """Whether the gate depends on each channel's mean over space alone (the fast path)."""
        return self.descriptors in ((Gap(),), (Gather(),))

    def bias_is_dead(self, place: int) -> bool:
        """Whether a batch norm after the part at `place` removes any bias added there."""
        for part in self.weigh[max(0, place + 1 - len(self.descriptors)) :]:
            if isinstance(part, Bn):
                return True
            if not part.keeps_shifts:
                return False
        return False

    def as_identity(self) -> GateRecipe:
        """The same gate starting at p = 1: scale 2, and one factor before the sigmoid at zero.

        Exactly one, the last: with two at zero neither would get a gradient.

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


class GateMisfit(ValueError):
    """Parts that do not fit together; `place` counts the gate's parts from 0."""

    def __init__(self, reason: str, place: int):
        super().__init__(reason)
        self.place = place


@dataclass(frozen=True)
class Recipe:
    """What a re-calibration block computes: one gate, or several in turn.

    `str(recipe)` is its text, which `ab.recipe` parses back to an equal recipe.
    """

    gates: tuple[GateRecipe, ...]

    def __post_init__(self):
        if not self.gates:
            raise ValueError("a recipe has at least one gate")

    @property
    def needs_spatial_size(self) -> bool:
        """Whether it has a weight for each position of the map, whose size must then be given."""
        return any(part.needs_spatial_size for gate in self.gates for part in gate.parts)

    def as_identity(self) -> Recipe:
        """The same recipe with each gate starting at p = 1 (`ab.boost(..., init="identity")`)."""
        return Recipe(tuple(gate.as_identity() for gate in self.gates))

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON, every argument spelled out, and the version that they are of."""

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
        """The recipe of `to_dict`'s result; one without a version is of version 1.

        Raises:
            ValueError: for an unknown part, argument or version, parts that do not fit together, or
                more than `MAX_PARTS` parts.
        """

        def part(entry: Mapping[str, Any]) -> Part:
            arguments = dict(entry)
            return _make_part(arguments.pop("part", "(none)"), arguments, version)

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


def _make_part(name: str, given: Mapping[str, Any], version: int) -> Part:
    arguments = versions.with_former_defaults(name, given, version)
    if name not in PARTS:
        raise unknown("part", name, PARTS)
    known = [f.name for f in fields(PARTS[name])]
    for argument in arguments:
        if argument not in known:
            takes = f"takes {', '.join(known)}" if known else "takes no arguments"
            raise ValueError(f"{name} has no argument {shown(argument)}; it {takes}")
    return PARTS[name](**arguments)


_TOKEN = re.compile(
    r"\s*(?:(?P<number>[-+]?(?:\d+(?:\.\d*)?|\.\d+)(?:[eE][-+]?\d+)?(?![\w.]))"
    r"|(?P<word>[A-Za-z_]\w*)|(?P<sign>[|+;(),=])|(?P<end>$))"
)


class _Parser:
    def __init__(self, text: str, version: int):
        self.text, self.at, self.version = text, 0, version
        self.advance()

    def advance(self) -> tuple[str, str, int]:
        """The current token (kind, text, position); moves to the next."""
        match = _TOKEN.match(self.text, self.at)
        if match is None:
            bad = next(i for i in range(self.at, len(self.text)) if not self.text[i].isspace())
            raise RecipeError(self.text, bad, "unexpected character")
        old = getattr(self, "token", ("", "", 0))
        kind = str(match.lastgroup)
        self.token = (kind, match[kind], match.start(kind))
        self.at = match.end()
        return old

    def fail(self, reason: str, position: int | None = None) -> RecipeError:
        return RecipeError(self.text, self.token[2] if position is None else position, reason)

    def accept(self, sign: str) -> bool:
        if self.token[:2] == ("sign", sign):
            self.advance()
            return True
        return False

    def recipe(self) -> Recipe:
        gates = [self.gate()]
        while self.accept(";"):
            gates.append(self.gate())
        if self.token[0] != "end":
            raise self.fail("expected '|', '+', ';' or the end")
        return Recipe(tuple(gates))

    def gate(self) -> GateRecipe:
        places: list[int] = []
        descriptors = [self.part(places)]
        while self.accept("+"):
            descriptors.append(self.part(places))
        weigh = []
        while self.accept("|"):
            weigh.append(self.part(places))
        places.append(self.token[2])
        try:
            return GateRecipe(tuple(descriptors), tuple(weigh))
        except GateMisfit as e:
            raise self.fail(str(e), places[e.place]) from None

    def part(self, places: list[int]) -> Part:
        kind, name, position = self.token
        if kind != "word":
            raise self.fail(f"expected a part ({', '.join(PARTS)})")
        if name not in PARTS:
            raise self.fail(str(unknown("part", name, PARTS)))
        self.advance()
        places.append(position)
        arguments: dict[str, Any] = {}
        if self.accept("("):
            while not self.accept(")"):
                if arguments and not self.accept(","):
                    raise self.fail("expected ',' or ')'")
                self.argument(PARTS[name], arguments)
        try:
            return _make_part(name, arguments, self.version)
        except ValueError as e:
            raise self.fail(str(e), position) from None

    def argument(self, part: type[Part], arguments: dict[str, Any]) -> None:
        position = self.token[2]
        value = self.value()
        if self.accept("="):
            name, value = value, self.value()
        elif len(arguments) < len(part.positional):
            name = part.positional[len(arguments)]
        else:
            names = ", ".join(f.name for f in fields(part)) or "none"
            raise self.fail(f"name this argument of {part.name} ({names})", position)
        if not isinstance(name, str) or name in arguments:
            raise self.fail("an argument is named once, by a word", position)
        arguments[name] = value

    def value(self) -> Any:
        kind, text, position = self.token
        if kind not in ("number", "word"):
            raise self.fail("expected a value")
        self.advance()
        if kind == "number":
            try:
                return int(text) if re.fullmatch(r"[-+]?\d+", text) else float(text)
            except ValueError:  # thousands of digits
                raise self.fail("not a number that Python reads", position) from None
        return {"true": True, "false": False}.get(text, text)


def parse(text: str, version: int = versions.VERSION) -> Recipe:
    """The recipe that `text` spells, or spelled in an earlier version.

    Raises:
        RecipeError: a ValueError with the position at which `text` does not parse; also for one of
            more than `MAX_TEXT` characters.
    """
    if len(text) > MAX_TEXT:
        reason = f"the text has {len(text):,} characters; a recipe may have up to {MAX_TEXT:,}"
        raise RecipeError(text, MAX_TEXT, reason)
    return _Parser(text, version).recipe()

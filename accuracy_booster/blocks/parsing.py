"""The text of a recipe, read into a `Recipe`. No code in the text is run.

    recipe   := gate (";" gate)*              gates that act one after the other (CBAM has two)
    gate     := part ("+" part)* ("|" part)*  the last part is `sigmoid`
    part     := name [ "(" argument ("," argument)* ")" ]
    argument := value | name "=" value        a value is a number, true, false, C or a word

`gap | dense(groups=C) | bn | sigmoid` is AB; C stands for the number of channels. In `a + b | ...`
both descriptors a and b go through the parts up to the first `bn` or `sigmoid`, with the same
weights. Their results are summed there (CBAM: `gap + gmp | bottleneck(16) | sigmoid`).
"""

from __future__ import annotations

import re
from dataclasses import fields
from typing import Any

from accuracy_booster.blocks import versions
from accuracy_booster.blocks.grammar import MAX_TEXT, GateMisfit, GateRecipe, Recipe, make_part
from accuracy_booster.blocks.part import Part
from accuracy_booster.blocks.parts import PARTS
from accuracy_booster.errors import unknown

AROUND = 60  # an error shows so many characters on each side of a position


class RecipeError(ValueError):
    """A recipe's text cannot be read. `position` is the index in `text`, from 0."""

    def __init__(self, text: str, position: int, reason: str):
        rest = text[position : position + MAX_TEXT].strip()[:24]
        here = repr(rest) if rest else "the end"
        where = f"recipe {_around(text, position)}, position {position} ({here})"
        super().__init__(f"{where}: {reason}")
        self.text, self.position, self.reason = text, position, reason


def _around(text: str, position: int) -> str:
    """The text, or the piece of a long one around a position."""
    first = position - AROUND if position > AROUND + 10 else 0
    last = position + AROUND if position < len(text) - AROUND - 10 else len(text)
    return f"{'... ' * (first > 0)}{text[first:last]!r}{' ...' * (last < len(text))}"


_TOKEN = re.compile(
    r"\s*(?:(?P<number>[-+]?(?:\d+(?:\.\d*)?|\.\d+)(?:[eE][-+]?\d+)?(?![\w.]))"
    r"|(?P<word>[A-Za-z_]\w*)|(?P<sign>[|+;(),=])|(?P<end>$))"
)


class _Parser:
    def __init__(self, text: str, version: int):
        self.text, self.at, self.version = text, 0, version
        self.advance()

    def advance(self) -> tuple[str, str, int]:
        """Move to the next token; returns the current one as (kind, text, position)."""
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
            return make_part(name, arguments, self.version)
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
            except ValueError:  # Python does not read thousands of digits
                raise self.fail("not a number that Python reads", position) from None
        return {"true": True, "false": False}.get(text, text)


def parse(text: str, version: int = versions.VERSION) -> Recipe:
    """The recipe of a text.

    Args:
        version: of the grammar that the text was written in.

    Raises:
        RecipeError: a ValueError with the position of the fault. Also for a text of more than
            `MAX_TEXT` characters.
    """
    if len(text) > MAX_TEXT:
        reason = f"the text has {len(text):,} characters; a recipe may have up to {MAX_TEXT:,}"
        raise RecipeError(text, MAX_TEXT, reason)
    return _Parser(text, version).recipe()

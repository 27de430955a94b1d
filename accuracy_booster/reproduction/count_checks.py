"""The paper's counts beside ours: a check of each number with its verdict, and the summary."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from decimal import ROUND_FLOOR, ROUND_HALF_UP, Decimal
from typing import Any

from accuracy_booster.analysis import conventions
from accuracy_booster.reproduction.printed_counts import ALL, COUNT_TABLES, WEIGHTS

# Verdicts on a printed number:
EQUAL = "equal"  # to the printed digits
TRUNCATED = "truncated"  # within one unit of the last digit: cut off, not rounded
DIFFERENT = "not reproducible"
# Verdicts on an inequality or a claim:
HOLDS, FAILS = "holds", "fails"

UNITS = {"": 1, "K": 10**3, "M": 10**6, "G": 10**9}


@dataclass(frozen=True)
class Check:
    """One number of the paper beside ours.

    Attributes:
        table: the number of the paper's table.
        row, column: where it stands there.
        paper: the number, formula or claim as printed.
        ours: what we count, as text.
        convention: what is counted.
        verdict: EQUAL, TRUNCATED, DIFFERENT, HOLDS or FAILS.
        note: what is known about a difference.
    """

    table: int
    row: str
    column: str
    paper: str
    ours: str
    convention: str
    verdict: str
    note: str = ""


@dataclass(frozen=True)
class Counts:
    """All checks, in the order of the paper."""

    checks: list[Check]

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return {"summary": self.summary(), "checks": [asdict(check) for check in self.checks]}

    def summary(self) -> dict[str, int]:
        """How many checks came to each verdict."""
        verdicts = (EQUAL, TRUNCATED, DIFFERENT, HOLDS, FAILS)
        return {v: sum(check.verdict == v for check in self.checks) for v in verdicts}

    def summary_text(self) -> str:
        """The summary as one or two sentences."""
        found = self.summary()
        numbers = found[EQUAL] + found[TRUNCATED] + found[DIFFERENT]
        text = (
            f"{numbers} numbers: {found[EQUAL]} equal to the printed digits, {found[TRUNCATED]} "
            f"within one unit of the last digit (truncated), {found[DIFFERENT]} not reproducible."
        )
        if claims := found[HOLDS] + found[FAILS]:
            text += f" {claims} inequalities: {found[HOLDS]} hold, {found[FAILS]} fail."
        return text

    def legend(self) -> list[tuple[str, str]]:
        """What the verdicts and the ways of counting mean that the tables show."""
        cells = {cell for _, _, rows in self.tables() for row in rows for cell in row[4:]}
        told = {word for cell in cells for word in re.split(r"[,:] | \+ ", cell)}
        return [
            (words, meaning)
            for words, meaning in self._words()
            if told & {*words.split(", "), words.removesuffix(" + ...")}
        ]

    @staticmethod
    def _words() -> list[tuple[str, str]]:
        return [
            (EQUAL, "to the printed digits"),
            (TRUNCATED, "within one unit of the last printed digit: cut off, not rounded"),
            (f"{HOLDS}, {FAILS}", "of an inequality, or of a claim in the text"),
            (ALL, "as a state dict holds them"),
            (WEIGHTS, "of the blocks only the weights of layers: no biases, no norms"),
            ("printed base + ...", "the paper's own number for the network without a block"),
            *conventions.CONVENTIONS.items(),
            ("the paper's outputs", "both layers of SE give C / r values, as Table 1 has it"),
            ("true outputs", "what the layers give"),
        ]

    def tables(self) -> Iterator[tuple[str, list[str], list[list[str]]]]:
        """Title, header and rows of each table."""
        header = ["model", "column", "paper", "ours", "counted", "verdict"]
        for number in sorted({check.table for check in self.checks}):
            of_table = [check for check in self.checks if check.table == number]
            title = (
                COUNT_TABLES[number].title if number in COUNT_TABLES else "extra cost of a block"
            )
            rows = []
            for check in of_table:
                verdict = f"{check.verdict}: {check.note}" if check.note else check.verdict
                cells = [check.row, check.column, check.paper, check.ours, check.convention]
                rows.append([*cells, verdict])
            yield f"Table {number}: {title}", header, rows


def verdict(printed: str, ours: int) -> str:
    """The verdict on a count beside a printed number, such as 25.57M.

    EQUAL if the count rounds to the printed digits, TRUNCATED if it gives them when it is cut off,
    and else DIFFERENT.
    """
    value, unit = parse(printed)
    exact = Decimal(ours)
    for rounding, name in ((ROUND_HALF_UP, EQUAL), (ROUND_FLOOR, TRUNCATED)):
        if (exact / unit).quantize(Decimal(1), rounding=rounding) * unit == value:
            return name
    return DIFFERENT


def parse(printed: str) -> tuple[Decimal, Decimal]:
    """The value of a printed number and one unit of its last digit."""
    digits = printed.rstrip("KMG")
    factor = UNITS[printed[len(digits) :]]
    places = len(digits.partition(".")[2])
    return Decimal(digits) * factor, Decimal(factor).scaleb(-places)

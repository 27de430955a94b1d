"""Every parameter, FLOPS, memory and depth figure that the paper prints, counted on built networks.

`accuracy-booster reproduce counts`. Verdicts are computed; none is written down.
"""

# N batch, C channels, H W space

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from decimal import ROUND_FLOOR, ROUND_HALF_UP, Decimal
from functools import cache
from itertools import combinations
from typing import Any

import torch
from torch import nn

from accuracy_booster.analysis import Complexity, complexity, conventions
from accuracy_booster.models import create_model
from accuracy_booster.progress import bars
from accuracy_booster.reproduction.paper import (
    ALL,
    OVER_ALL,
    OVER_WEIGHTS,
    TABLE_1,
    TABLES,
    WEIGHTS,
    BlockRow,
    Row,
    Table,
)
from accuracy_booster.surgery import attach
from accuracy_booster.surgery.sites import Site

EQUAL = "equal"  # to the printed digits
TRUNCATED = "truncated"  # within one unit of the last digit
DIFFERENT = "not reproducible"
HOLDS, FAILS = "holds", "fails"  # of an inequality or a claim

UNITS = {"": 1, "K": 10**3, "M": 10**6, "G": 10**9}
SIZES = [(c, b) for c in (64, 256, 2048) for b in (1, 32, 256)]  # where formulas are compared


@dataclass(frozen=True)
class Check:
    """One number of the paper beside ours."""

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
        return {"summary": self.summary(), "checks": [asdict(check) for check in self.checks]}

    def summary(self) -> dict[str, int]:
        """How many checks came to each verdict."""
        verdicts = (EQUAL, TRUNCATED, DIFFERENT, HOLDS, FAILS)
        return {v: sum(check.verdict == v for check in self.checks) for v in verdicts}

    def summary_text(self) -> str:
        found = self.summary()
        numbers = found[EQUAL] + found[TRUNCATED] + found[DIFFERENT]
        text = (
            f"{numbers} numbers: {found[EQUAL]} equal to the printed digits, {found[TRUNCATED]} "
            f"within one unit of the last digit (truncated), {found[DIFFERENT]} not reproducible."
        )
        if claims := found[HOLDS] + found[FAILS]:
            text += f" {claims} inequalities: {found[HOLDS]} hold, {found[FAILS]} fail."
        return text

    @staticmethod
    def legend() -> list[tuple[str, str]]:
        """What the verdicts and the ways of counting mean."""
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
            mine = [check for check in self.checks if check.table == number]
            title = TABLES[number].title if number in TABLES else "extra cost of a block"
            rows = []
            for check in mine:
                verdict = f"{check.verdict}: {check.note}" if check.note else check.verdict
                cells = [check.row, check.column, check.paper, check.ours, check.convention]
                rows.append([*cells, verdict])
            yield f"Table {number}: {title}", header, rows


def counts(tables: Sequence[int] | None = None) -> Counts:
    """Count what Tables 1, 2, 3, 4, 7, 8, 10 and 15 print, on networks built on the meta device.

    Args:
        tables: numbers of tables, by default all of these.

    Raises:
        ValueError: for a table that prints no such numbers.
    """
    known = [1, *TABLES]
    wanted = known if tables is None else list(tables)
    if not wanted:
        raise ValueError(f"name tables among {', '.join(map(str, known))}")
    for number in wanted:
        if number not in known:
            raise ValueError(f"table {number} prints no counts; {', '.join(map(str, known))} do")
    checks: list[Check] = []
    with bars() as progress:
        task = progress.add_task("Counting", total=len(wanted), note="")
        for number in sorted(set(wanted)):
            progress.update(task, note=f"Table {number}")
            checks += _table_1() if number == 1 else _table(number, TABLES[number])
            progress.advance(task)
    return Counts(checks)


def verdict(printed: str, ours: int) -> str:
    """How a count agrees with a printed number, such as 25.57M.

    Equal if it rounds to the printed digits, truncated if it is cut off to them.
    """
    value, unit = _parse(printed)
    exact = Decimal(ours)
    for way, name in ((ROUND_HALF_UP, EQUAL), (ROUND_FLOOR, TRUNCATED)):
        if (exact / unit).quantize(Decimal(1), rounding=way) * unit == value:
            return name
    return DIFFERENT


def _parse(printed: str) -> tuple[Decimal, Decimal]:
    """The value of a printed number and one unit of its last digit."""
    digits = printed.rstrip("KMG")
    factor = UNITS[printed[len(digits) :]]
    places = len(digits.partition(".")[2])
    return Decimal(digits) * factor, Decimal(factor).scaleb(-places)


@cache
def _cost(model: str, block: str, size: tuple[int, int, int], classes: int) -> Complexity:
    with torch.device("meta"):
        network = create_model(model, block=block, num_classes=classes, input_size=size)
        return complexity(network, size)


def _table(number: int, table: Table) -> Iterator[Check]:
    def cost(row: Row) -> Complexity:
        return _cost(row.model, row.block, table.input_size, table.num_classes)

    for row in table.rows:
        mine = cost(row)
        if row.params:
            ours = _parameters(row, mine, table)
            result = verdict(row.params, ours)
            note = row.why if result == DIFFERENT else ""
            yield Check(
                number, row.label, "Params", row.params, f"{ours:,}", row.parameters, result, note
            )
        if row.flops:
            ours = conventions.count(mine.count, row.macs)
            result = verdict(row.flops, ours)
            note = ""
            if result == DIFFERENT:
                note = "; ".join(filter(None, (row.why, _other_conventions(row, table, cost))))
            yield Check(number, row.label, "FLOPS", row.flops, f"{ours:,}", row.macs, result, note)
        if row.depth:
            result = EQUAL if int(row.depth) == mine.depth else DIFFERENT
            yield Check(
                number, row.label, "Depth", row.depth, str(mine.depth), "layers of a block", result
            )


def _parameters(row: Row, cost: Complexity, table: Table) -> int:
    if row.parameters == ALL:
        return cost.parameters
    if row.parameters == WEIGHTS:
        return cost.base.parameters + cost.block_weights
    base = int(_parse(table.rows[0].params)[0])
    extra = {OVER_ALL: cost.extra.parameters, OVER_WEIGHTS: cost.block_weights}
    return base + extra[row.parameters]


def _other_conventions(row: Row, table: Table, cost: Any) -> str:
    """Which convention gives a number that the table's own does not, and most of its table."""

    def fits(other: Row, convention: str) -> bool:
        return verdict(other.flops, conventions.count(cost(other).count, convention)) != DIFFERENT

    best: tuple[int, str] = (0, "")
    for size in range(len(conventions.TERMS) + 1):
        for terms in combinations(conventions.TERMS, size):
            convention = "+".join(("mac", *terms))
            if fits(row, convention):
                found = sum(fits(other, convention) for other in table.rows)
                best = max(best, (found, convention), key=lambda pair: pair[0])
    if not best[1]:
        return "no convention gives it"
    return f"{best[1]} gives it, and {best[0]} of the table's {len(table.rows)} rows"


def _table_1() -> Iterator[Check]:
    def measured(block: str, channels: int, batch: int) -> Complexity:
        with torch.device("meta"):
            model = nn.Sequential(nn.Identity())
            attach(model, block, [Site("0", channels, (7, 7))])
            return complexity(model, (channels, 7, 7), batch_size=batch)

    costs = {
        (row.block, c, b): measured(row.block, c, b).blocks[0] for row in TABLE_1 for c, b in SIZES
    }
    for row in TABLE_1:
        for column, formula, attribute, how in (
            ("Extra Params", row.parameters, "weights", WEIGHTS),
            ("Extra FLOPS", row.flops, "macs", "mac"),
            ("RTM", row.rtm, "rtm_paper", "the paper's outputs"),
            ("RTM", row.rtm, "rtm", "true outputs"),
        ):
            pairs = [
                (formula[1](c, b), getattr(costs[row.block, c, b], attribute)) for c, b in SIZES
            ]
            yield _formula(row, column, formula[0], how, pairs)
    yield from _lowest_rtm()


def _formula(
    row: BlockRow, column: str, formula: str, how: str, pairs: list[tuple[int, int]]
) -> Check:
    shown, where = f"{pairs[4][1]:,}", f"at C = {SIZES[4][0]}, B = {SIZES[4][1]}"
    if row.more:
        result = HOLDS if all(ours > paper for paper, ours in pairs) else FAILS
    else:
        result = EQUAL if all(ours == paper for paper, ours in pairs) else DIFFERENT
    note = f"{pairs[4][0]:,} {where}" if result == DIFFERENT else ""
    if result == DIFFERENT and column == "RTM":
        note += "; the second layer of SE gives C outputs, not C/r"
    if not row.printed:
        note = "; ".join(filter(None, ("not in the table; from section 5", note)))
    paper = f"> {formula}" if row.more else formula
    return Check(1, row.label, column, paper, f"{shown} {where}", how, result, note)


def _lowest_rtm() -> Iterator[Check]:
    """Section 5.3: "the AB block has the lowest extra RTM", on ResNet-50."""
    size = (3, 224, 224)
    for attribute, how in (("rtm_paper", "the paper's outputs"), ("rtm", "true outputs")):
        for batch in (1, 256):
            totals = {}
            for row in TABLE_1:
                with torch.device("meta"):
                    network = create_model("resnet50v1", block=row.block)
                    blocks = complexity(network, size, batch_size=batch).blocks
                totals[row.label] = sum(getattr(block, attribute) for block in blocks)
            lowest = min(totals, key=lambda label: totals[label])
            yield Check(
                1,
                "all",
                f"RTM of ResNet-50, B = {batch}",
                "AB has the lowest",
                ", ".join(f"{label} {total:,}" for label, total in totals.items()),
                how,
                HOLDS if lowest == "AB" else FAILS,
                "" if lowest == "AB" else f"{lowest} has the lowest",
            )

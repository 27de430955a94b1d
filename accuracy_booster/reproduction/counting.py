"""Counts parameters, FLOPS and depth of built networks, and compares them with the paper's tables.

Used by `accuracy-booster reproduce counts`. The paper's numbers stand in `printed_counts`. All
verdicts are computed here; none is written down.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import cache
from itertools import combinations

import torch

from accuracy_booster.analysis import Complexity, complexity, conventions
from accuracy_booster.models import create_model
from accuracy_booster.progress import bars
from accuracy_booster.reproduction.count_checks import (
    DIFFERENT,
    EQUAL,
    Check,
    Counts,
    parse,
    verdict,
)
from accuracy_booster.reproduction.counting_table_1 import check_table_1
from accuracy_booster.reproduction.printed_counts import (
    ALL,
    COUNT_TABLES,
    OVER_ALL,
    OVER_WEIGHTS,
    WEIGHTS,
    CountRow,
    CountTable,
)


def counts(tables: Sequence[int] | None = None) -> Counts:
    """Count what Tables 1, 2, 3, 4, 7, 8, 10 and 15 print.

    The networks are built on torch's meta device, which allocates no weights.

    Args:
        tables: the numbers of tables; by default all of these.

    Raises:
        ValueError: for a table that prints no counts.
    """
    known = [1, *COUNT_TABLES]
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
            checks += check_table_1() if number == 1 else _check_table(number, COUNT_TABLES[number])
            progress.advance(task)
    return Counts(checks)


@cache
def _cost(model: str, block: str, size: tuple[int, int, int], classes: int) -> Complexity:
    with torch.device("meta"):
        network = create_model(model, block=block, num_classes=classes, input_size=size)
        return complexity(network, size)


def _check_table(number: int, table: CountTable) -> Iterator[Check]:
    """The checks of one table but Table 1."""

    def cost(row: CountRow) -> Complexity:
        return _cost(row.model, row.block, table.input_size, table.num_classes)

    for row in table.rows:
        counted = cost(row)
        if row.params:
            ours = _parameters(row, counted, table)
            result = verdict(row.params, ours)
            note = row.why if result == DIFFERENT else ""
            yield Check(
                number, row.label, "Params", row.params, f"{ours:,}", row.parameters, result, note
            )
        if row.flops:
            ours = conventions.count(counted.count, row.macs)
            result = verdict(row.flops, ours)
            note = ""
            if result == DIFFERENT:
                note = "; ".join(filter(None, (row.why, _other_conventions(row, table, cost))))
            yield Check(number, row.label, "FLOPS", row.flops, f"{ours:,}", row.macs, result, note)
        if row.depth:
            result = EQUAL if int(row.depth) == counted.depth else DIFFERENT
            yield Check(
                number,
                row.label,
                "Depth",
                row.depth,
                str(counted.depth),
                "layers of a block",
                result,
            )


def _parameters(row: CountRow, cost: Complexity, table: CountTable) -> int:
    """Our number of parameters, counted as the row says (`CountRow.parameters`)."""
    if row.parameters == ALL:
        return cost.parameters
    if row.parameters == WEIGHTS:
        return cost.base.parameters + cost.block_weights
    base = int(parse(table.rows[0].params)[0])
    extra = {OVER_ALL: cost.extra.parameters, OVER_WEIGHTS: cost.block_weights}
    return base + extra[row.parameters]


def _other_conventions(
    row: CountRow, table: CountTable, cost: Callable[[CountRow], Complexity]
) -> str:
    """A note on FLOPS that the table's own convention does not give.

    It names the convention that gives them and fits the most rows of the table.
    """

    def fits(other: CountRow, convention: str) -> bool:
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

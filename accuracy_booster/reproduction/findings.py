"""What all results together say: every table, the count of verdicts, and the results left out."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import cached_property

from accuracy_booster.reproduction.budgets import BUDGETS
from accuracy_booster.reproduction.comparing import Pair, TableResult, compare_table
from accuracy_booster.reproduction.record import Record
from accuracy_booster.reproduction.result_files import Records
from accuracy_booster.reproduction.specs import MAX_SEEDS, Spec, spec_of
from accuracy_booster.reproduction.table import Table
from accuracy_booster.reproduction.tables import TABLES
from accuracy_booster.reproduction.verdicts import (
    CONFIRMED,
    CONTRADICTED,
    LESS,
    MORE,
    NOT_RUN,
    TOO_SMALL,
)

WORDS = (CONFIRMED, CONTRADICTED, MORE, LESS, TOO_SMALL)
SMOKE = "smoke"  # the budget whose accuracies mean nothing


@dataclass(frozen=True)
class Findings:
    """Everything that the results say.

    Attributes:
        tables: the tables with results, separately for each budget but smoke.
        used: the results in these tables, by name.
        other_data: the names of results that every table leaves out because of their images.
        smoke: the names of results of the budget smoke.
        beyond: the names of results of seeds beyond the declared ones, which not all rows have.
        unasked: the names of results that no row asks for, or that hold no number for their row.
    """

    tables: tuple[TableResult, ...]
    used: dict[str, Record]
    other_data: tuple[str, ...]
    smoke: tuple[str, ...]
    beyond: tuple[str, ...]
    unasked: tuple[str, ...]

    @property
    def hours(self) -> float:
        """The compute of the results in the tables."""
        return math.fsum(record.seconds for record in self.used.values()) / 3600

    def pairs(self) -> dict[tuple[object, ...], list[tuple[TableResult, Pair]]]:
        """The comparisons whose runs have ended, each with the tables that it stands in, by key."""
        found: dict[tuple[object, ...], list[tuple[TableResult, Pair]]] = {}
        for result in self.tables:
            for pair in result.pairs:
                if pair.was_run:
                    found.setdefault(pair.key, []).append((result, pair))
        return found

    @property
    def intervals(self) -> int:
        """The number of confidence intervals. A pair of runs that tables share counts once."""
        kept = (found[0][1].difference for found in self.pairs().values())
        return sum(d is not None and d.interval is not None for d in kept)

    def verdicts(self) -> Counter[str]:
        """How often each verdict was reached. A pair of runs that tables share counts once."""
        said = Counter(found[0][1].verdict.word for found in self.pairs().values())
        return Counter({word: said[word] for word in WORDS if said[word]} | {NOT_RUN: self.not_run})

    @cached_property
    def not_run(self) -> int:
        """How many comparisons of all tables have no pair of runs at any budget.

        A comparison that tables share counts once.
        """
        run = {key for key, ((_, pair), *_) in self.pairs().items() if pair.difference}
        every = set()
        for table in TABLES.values():
            empty = [compare_table(table, b[0], Records({}, {})) for b in budgets_of(table)]
            every |= {
                tuple(pair.key for pair in alike)
                for alike in zip(*(result.pairs for result in empty), strict=True)
            }
        return sum(run.isdisjoint(keys) for keys in every)


def budgets_of(table: Table) -> list[tuple[str, ...]]:
    """The budgets of a table but smoke. Budgets with the same runs stand together."""
    alike: dict[tuple[str, ...], list[str]] = {}
    for budget in BUDGETS:
        if budget != SMOKE:
            runs = tuple(spec_of(table, row, budget, 0).hash for row in table.rows)
            alike.setdefault(runs, []).append(budget)
    return [tuple(budgets) for budgets in alike.values()]


def compare(records: Records) -> Findings:
    """What results say of all tables, at all budgets but smoke."""
    tables = []
    for table in TABLES.values():
        for alike in budgets_of(table):
            result = compare_table(table, alike[0], records)
            if result.has_results:
                tables.append(replace(result, budgets=alike))
    in_tables = {name for result in tables for name in result.names}
    other_data = {name for result in tables for name in result.other_data}
    declared, smoke = _declared(), {spec.hash for _, spec in _specs([SMOKE])}
    used: dict[str, Record] = {}
    left: dict[str, list[str]] = {"other_data": [], "smoke": [], "beyond": [], "unasked": []}
    for (hash_, seed), record in sorted(records.found.items()):
        name = record.spec.name
        if name in in_tables:
            used[name] = record
        elif name in other_data:
            left["other_data"].append(name)
        elif hash_ in smoke:
            left["smoke"].append(name)
        elif seed >= declared.get(hash_, MAX_SEEDS):
            left["beyond"].append(name)
        else:
            left["unasked"].append(name)
    return Findings(
        tuple(tables), used, **{why: tuple(sorted(names)) for why, names in left.items()}
    )


def _specs(budgets: list[str]) -> Iterator[tuple[Table, Spec]]:
    """The run with seed 0 of every row of every table, at these budgets."""
    for table in TABLES.values():
        for budget in budgets:
            for row in table.rows:
                yield table, spec_of(table, row, budget, 0)


def _declared() -> dict[str, int]:
    """The number of seeds of each configuration, by hash: the most that any table declares."""
    found: dict[str, int] = {}
    for table, spec in _specs([budget for budget in BUDGETS if budget != SMOKE]):
        found[spec.hash] = max(table.seeds, found.get(spec.hash, 0))
    return found

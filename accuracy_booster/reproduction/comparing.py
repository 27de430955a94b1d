"""From results to a table: accuracies by seed, paired differences, and what the rule says of them.

What is said of a number here is said by `rule.md`. Nothing is written or drawn.
"""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from statistics import mean, stdev

from accuracy_booster.reproduction.datasets import KNOWN
from accuracy_booster.reproduction.records import Record, Records
from accuracy_booster.reproduction.specs import Spec, spec_of
from accuracy_booster.reproduction.table import TIME, TOP1, Row, Table
from accuracy_booster.reproduction.verdicts import Difference, Verdict, judge

TIME_DIGITS = 1  # of the paper's differences of times, in %


@dataclass(frozen=True)
class Pair:
    """A row beside a reference.

    Attributes:
        difference: row minus reference in points, or extra time in %, by seed; None without a pair.
        printed: the same of the printed numbers, to their digits; None where either is missing.
        diverged: the seeds whose pair is left out because a training of it diverged.
        key: the same for pairs of the same runs, in whichever table they stand.
    """

    row: Row
    reference: Row
    difference: Difference | None
    printed: float | None
    verdict: Verdict
    diverged: tuple[int, ...]
    key: tuple[object, ...]

    @property
    def was_run(self) -> bool:
        """Whether a pair has ended, be it that it diverged."""
        return self.difference is not None or bool(self.diverged)


@dataclass(frozen=True)
class RowResult:
    """What a row came to.

    Attributes:
        spec: of the row's run with seed 0.
        by_seed: top-1 accuracy of the last epoch in %; in a table of times seconds per batch.
        diverged: what happened, by seed.
        hours: of compute of the row's runs.
        pairs: one a reference that the row is compared with.
    """

    row: Row
    spec: Spec
    by_seed: Mapping[int, float]
    diverged: Mapping[int, str]
    hours: float
    pairs: tuple[Pair, ...] = ()

    @property
    def mean(self) -> float | None:
        return mean(self.by_seed.values()) if self.by_seed else None

    @property
    def spread(self) -> float | None:
        """The sample standard deviation; None for fewer than two seeds."""
        return stdev(self.by_seed.values()) if len(self.by_seed) > 1 else None

    @property
    def run(self) -> str:
        """The name of the row's result files up to their seed."""
        return run_of(self.spec)

    @property
    def seeds(self) -> list[int]:
        """Those of the runs that have ended, the diverged ones too."""
        return sorted({*self.by_seed, *self.diverged})


@dataclass(frozen=True)
class TableResult:
    """A table at a budget.

    Attributes:
        budgets: more than one where they come to the same runs.
        machines: the processors and versions of torch that its runs were made with.
        other_data: names of results that were made with other images than most of the table's; they
            have no part in it.
    """

    table: Table
    budgets: tuple[str, ...]
    rows: tuple[RowResult, ...]
    machines: tuple[str, ...]
    other_data: tuple[str, ...]

    @property
    def budget(self) -> str:
        return " and ".join(self.budgets)

    @cached_property
    def pairs(self) -> list[Pair]:
        return [pair for row in self.rows for pair in row.pairs]

    @property
    def has_results(self) -> bool:
        return any(row.seeds for row in self.rows) or bool(self.other_data)

    @property
    def has_differences(self) -> bool:
        return any(pair.difference is not None for pair in self.pairs)

    @property
    def hours(self) -> float:
        """Of compute of the table's runs. Rows of a table of times share theirs."""
        return sum({row.spec.hash: row.hours for row in self.rows}.values())

    @property
    def names(self) -> set[str]:
        """The results in the table."""
        return {f"{row.run}-s{seed}" for row in self.rows for seed in row.seeds}

    @property
    def has_times(self) -> bool:
        return self.table.measures == TIME

    def label(self, row: Row) -> str:
        return label_of(self.table, row)


def label_of(table: Table, row: Row) -> str:
    """A row's label, with the network where the table has several."""
    return row.label if len(table.models) == 1 else f"{row.model}, {row.label}"


def run_of(spec: Spec) -> str:
    """The name of a run's result file up to its seed."""
    return spec.name.removesuffix(f"-s{spec.seed}")


# --- one table


def compare_table(table: Table, budget: str, records: Records) -> TableResult:
    """A table at a budget, from the results of the seeds that count.

    Raises:
        ValueError: for a budget that there is not.
    """
    specs = [spec_of(table, row, budget, 0) for row in table.rows]
    hashes = {spec.hash for spec in specs}
    wanted = {(hash_, seed) for hash_ in hashes for seed in _seeds(table, hashes, records)}
    found = {key: record for key, record in records.found.items() if key in wanted}
    other_data = _of_other_data(table, found)
    kept = {key: record for key, record in found.items() if key not in other_data}
    rows = [_row(row, spec, kept) for row, spec in zip(table.rows, specs, strict=True)]
    of_row = {id(result.row): result for result in rows}
    complete = tuple(
        RowResult(
            *(r.row, r.spec, r.by_seed, r.diverged, r.hours),
            tuple(_pair(table, r, of_row[id(other)]) for other in table.references_of(r.row)),
        )
        for r in rows
    )
    names = tuple(sorted(found[key].spec.name for key in other_data))
    machines = tuple(sorted({_machine(record) for record in kept.values()}))
    return TableResult(table, (budget,), complete, machines, names)


def _machine(record: Record) -> str:
    """What a run was made with, where that may change its result."""
    about = record.about
    packages = about.get("packages") or {}
    parts = [about.get("processor"), f"torch {packages.get('torch')}"]
    return ", ".join(map(str, filter(None, parts)))


def _seeds(table: Table, hashes: set[str], records: Records) -> set[int]:
    """The seeds that count: those declared, and further ones that every row of the table has."""
    more = {seed for _, seed in records.found if seed >= table.seeds}
    whole = {seed for seed in more if all((hash_, seed) in records.found for hash_ in hashes)}
    return {*range(table.seeds), *whole}


def _row(row: Row, spec: Spec, records: Mapping[tuple[str, int], Record]) -> RowResult:
    own = {seed: record for (hash_, seed), record in records.items() if hash_ == spec.hash}
    values = {seed: value_of(record, row) for seed, record in sorted(own.items())}
    return RowResult(
        *(row, spec),
        {seed: value for seed, value in values.items() if value is not None},
        {seed: record.diverged for seed, record in sorted(own.items()) if record.diverged},
        math.fsum(record.seconds for record in own.values()) / 3600,
    )


def value_of(record: Record, row: Row) -> float | None:
    """The row's accuracy or time in a result; None if it diverged, or holds no finite number."""
    if record.diverged:
        return None
    value = record.values.get(row.cell or (row.block if record.spec.measures == TIME else TOP1))
    return value if value is not None and math.isfinite(value) else None


def _pair(table: Table, row: RowResult, reference: RowResult) -> Pair:
    both = sorted(set(row.by_seed) & set(reference.by_seed))
    by_seed = {
        seed: _difference(table, row.by_seed[seed], reference.by_seed[seed]) for seed in both
    }
    ended = set(row.seeds) & set(reference.seeds)
    diverged = tuple(sorted(ended & (set(row.diverged) | set(reference.diverged))))
    difference = Difference(by_seed) if by_seed else None
    printed = printed_difference(table, row.row, reference.row)
    key: tuple[object, ...] = (row.spec.hash, reference.spec.hash, printed, table.seeds)
    if table.measures == TIME:
        key += (row.row.block, reference.row.block)
    if row.row.cell or reference.row.cell:
        key += (row.row.cell, reference.row.cell)
    return Pair(
        *(row.row, reference.row, difference, printed),
        judge(difference, printed, table.seeds - len(diverged)),
        diverged,
        key,
    )


def _difference(table: Table, value: float, reference: float) -> float:
    return 100 * (value / reference - 1) if table.measures == TIME else value - reference


def printed_difference(table: Table, row: Row, reference: Row) -> float | None:
    """The difference of two printed numbers, to their digits; None where either is missing."""
    if row.printed is None or reference.printed is None:
        return None
    digits = max(map(decimals, (row.printed, reference.printed)))
    digits = TIME_DIGITS if table.measures == TIME else digits
    return round(_difference(table, row.printed, reference.printed), digits)


def decimals(number: float) -> int:
    """How many digits stand behind a number's point."""
    return len(repr(number).partition(".")[2]) if number != int(number) else 0


def _of_other_data(table: Table, found: Mapping[tuple[str, int], Record]) -> set[tuple[str, int]]:
    """The results whose images are not the data set's, or differ from those of most of them."""
    images = {key: _images(record) for key, record in found.items()}
    counted = Counter(images.values())
    if len(counted) < 2:
        return set()
    known = KNOWN[table.data].digest if table.data in KNOWN else None
    most = max(sorted(counted), key=lambda which: (which == known, counted[which]))
    return {key for key, which in images.items() if which != most}


def _images(record: Record) -> str:
    """What tells a result's images from others: the digest of a known data set, or its marks."""
    own = record.data if isinstance(record.data, dict) else {}
    return str(own.get("digest") or json.dumps(record.data, sort_keys=True))

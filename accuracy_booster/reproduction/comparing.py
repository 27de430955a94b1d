"""From results to one table: accuracies by seed, paired differences, and verdicts.

Which results count and how they are compared follows `rule.md`. The report's files show what is
computed here.
"""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from statistics import mean, stdev

from accuracy_booster.analysis.paired_differences import Difference
from accuracy_booster.reproduction.known_data import KNOWN
from accuracy_booster.reproduction.record import Record
from accuracy_booster.reproduction.result_files import Records
from accuracy_booster.reproduction.specs import Spec, spec_of
from accuracy_booster.reproduction.table import TIME, TOP1, Row, Table
from accuracy_booster.reproduction.verdicts import Verdict, judge

TIME_DIGITS = 1  # digits that the paper's differences of times are rounded to, in %


@dataclass(frozen=True)
class Pair:
    """A row compared with a reference.

    Attributes:
        difference: row minus reference in points, or the extra time in %, by seed; None where no
            pair of runs has ended.
        printed: the difference of the printed numbers, to their digits; None where one is missing.
        verdict: what the rule says of the difference.
        diverged: the seeds whose pair is left out because one of its trainings diverged.
        key: identifies the runs that are compared: it is the same for the same pair in all tables.
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
        """Whether a pair of runs has ended. A pair that diverged has ended too."""
        return self.difference is not None or bool(self.diverged)


@dataclass(frozen=True)
class RowResult:
    """The results of a row.

    Attributes:
        spec: the row's run with seed 0.
        by_seed: the row's number in each run: an accuracy in %, or the seconds per batch.
        diverged: why a training diverged, by seed.
        hours: the compute of the row's runs.
        pairs: the comparisons with each reference.
    """

    row: Row
    spec: Spec
    by_seed: Mapping[int, float]
    diverged: Mapping[int, str]
    hours: float
    pairs: tuple[Pair, ...] = ()

    @property
    def mean(self) -> float | None:
        """The mean over seeds; None without a result."""
        return mean(self.by_seed.values()) if self.by_seed else None

    @property
    def spread(self) -> float | None:
        """The sample standard deviation; None for fewer than two seeds."""
        return stdev(self.by_seed.values()) if len(self.by_seed) > 1 else None

    @property
    def run(self) -> str:
        """The name of the row's result files, without their seeds."""
        return run_of(self.spec)

    @property
    def seeds(self) -> list[int]:
        """The seeds of the runs that have ended, diverged ones included."""
        return sorted({*self.by_seed, *self.diverged})


@dataclass(frozen=True)
class TableResult:
    """The results of a table at one budget.

    Attributes:
        budgets: the budget; or several, where they have the same runs.
        rows: the results of each row.
        machines: the processors and versions of torch that the runs were made with.
        other_data: the names of results that are left out because they were made with other images
            than most of the table's.
    """

    table: Table
    budgets: tuple[str, ...]
    rows: tuple[RowResult, ...]
    machines: tuple[str, ...]
    other_data: tuple[str, ...]

    @property
    def budget(self) -> str:
        """The budgets in words, such as "paper and short"."""
        return " and ".join(self.budgets)

    @cached_property
    def pairs(self) -> list[Pair]:
        """All comparisons of the table."""
        return [pair for row in self.rows for pair in row.pairs]

    @property
    def has_results(self) -> bool:
        """Whether any run has ended, even one that is left out."""
        return any(row.seeds for row in self.rows) or bool(self.other_data)

    @property
    def has_differences(self) -> bool:
        """Whether any pair of runs has ended without diverging."""
        return any(pair.difference is not None for pair in self.pairs)

    @property
    def hours(self) -> float:
        """The compute of the table's runs. A run that several rows share counts once."""
        return sum({row.spec.hash: row.hours for row in self.rows}.values())

    @property
    def names(self) -> set[str]:
        """The names of the results in the table."""
        return {f"{row.run}-s{seed}" for row in self.rows for seed in row.seeds}

    @property
    def has_times(self) -> bool:
        """Whether the table is one of times."""
        return self.table.measures == TIME

    def label(self, row: Row) -> str:
        """A row's label, with the network where the table has several."""
        return label_of(self.table, row)


def label_of(table: Table, row: Row) -> str:
    """A row's label, with the network where the table has several."""
    return row.label if len(table.models) == 1 else f"{row.model}, {row.label}"


def run_of(spec: Spec) -> str:
    """The name of a run's result file, without its seed."""
    return spec.name.removesuffix(f"-s{spec.seed}")


# --- one table


def compare_table(table: Table, budget: str, records: Records) -> TableResult:
    """A table at a budget, from the results of the seeds that count.

    Raises:
        ValueError: for an unknown budget.
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
    """The processor and the version of torch, which may change a result."""
    about = record.about
    packages = about.get("packages") or {}
    parts = [about.get("processor"), f"torch {packages.get('torch')}"]
    return ", ".join(map(str, filter(None, parts)))


def _seeds(table: Table, hashes: set[str], records: Records) -> set[int]:
    """The seeds that count: the declared ones, and further ones that every row of the table has."""
    more = {seed for _, seed in records.found if seed >= table.seeds}
    whole = {seed for seed in more if all((hash_, seed) in records.found for hash_ in hashes)}
    return {*range(table.seeds), *whole}


def _row(row: Row, spec: Spec, records: Mapping[tuple[str, int], Record]) -> RowResult:
    """The results of a row, without comparisons."""
    own = {seed: record for (hash_, seed), record in records.items() if hash_ == spec.hash}
    values = {seed: value_of(record, row) for seed, record in sorted(own.items())}
    return RowResult(
        *(row, spec),
        {seed: value for seed, value in values.items() if value is not None},
        {seed: record.diverged for seed, record in sorted(own.items()) if record.diverged},
        math.fsum(record.seconds for record in own.values()) / 3600,
    )


def value_of(record: Record, row: Row) -> float | None:
    """The row's number in a result; None if the run diverged, or the number is not finite."""
    if record.diverged:
        return None
    value = record.values.get(row.cell or (row.block if record.spec.measures == TIME else TOP1))
    return value if value is not None and math.isfinite(value) else None


def _pair(table: Table, row: RowResult, reference: RowResult) -> Pair:
    """The comparison of a row with a reference, over the seeds in which both have a number."""
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
    """Value minus reference, or the extra time in % of the reference's."""
    return 100 * (value / reference - 1) if table.measures == TIME else value - reference


def printed_difference(table: Table, row: Row, reference: Row) -> float | None:
    """The difference of two printed numbers, to their digits; None where either is missing."""
    if row.printed is None or reference.printed is None:
        return None
    digits = max(map(decimals, (row.printed, reference.printed)))
    digits = TIME_DIGITS if table.measures == TIME else digits
    return round(_difference(table, row.printed, reference.printed), digits)


def decimals(number: float) -> int:
    """The number of decimal places that a number is written with."""
    return len(repr(number).partition(".")[2]) if number != int(number) else 0


def _of_other_data(table: Table, found: Mapping[tuple[str, int], Record]) -> set[tuple[str, int]]:
    """The results that were made with other images than the others.

    Those of the public data set are kept, if there are any. Else the most frequent ones are kept.
    """
    images = {key: _images(record) for key, record in found.items()}
    counted = Counter(images.values())
    if len(counted) < 2:
        return set()
    known = KNOWN[table.data].digest if table.data in KNOWN else None
    most = max(sorted(counted), key=lambda which: (which == known, counted[which]))
    return {key for key, which in images.items() if which != most}


def _images(record: Record) -> str:
    """What identifies a result's images: the digest of a known data set, or what the run noted."""
    own = record.data if isinstance(record.data, dict) else {}
    return str(own.get("digest") or json.dumps(record.data, sort_keys=True))

"""Made-up results of tables, and what scipy says of their differences."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from scipy.stats import nct, t, ttest_1samp

from accuracy_booster.reproduction import TABLES, Record, Row, Table, read_records
from accuracy_booster.reproduction.comparing import Pair, compare_table
from accuracy_booster.reproduction.result_files import write_record
from accuracy_booster.reproduction.specs import CODE_VERSION, spec_of

CONFIRMED, CONTRADICTED, TOO_SMALL = "confirmed", "contradicted", "too small to tell"
MORE, LESS, NOT_RUN = "more accurate", "less accurate", "not run"
DATA = {"train": {"images": 50_000, "labels": "0a"}, "test": {"images": 10_000, "labels": "0b"}}
ABOUT = {
    "code": {"version": CODE_VERSION, "package": "0.3.0", "commit": "0123456789ab"},
    "packages": {"torch": "2.9.0"},
    "processor": "a processor",
    "ended": "2026-01-02T03:04:05Z",
}
# accuracies by seed that the tests of the report use
SMALL = {
    "no block": [66.0, 66.4, 65.7, 66.1, 66.3],
    "SE": [66.2, 66.1, 66.5, 66.4, 66.2],
    "AB": [67.6, 67.9, 67.1, 67.9, 68.1],
    "AB-Plus": [66.1, 66.2, 65.9, 66.2, 66.1],
}


def table(printed: Sequence[float | None] = (71.4, 73.1), *, seeds: int = 5) -> Table:
    rows = [Row(b, "resnet8", b, p) for b, p in zip(("none", "ab"), printed, strict=True)]
    return Table("t", "two rows", "cifar10", tuple(rows), seeds=seeds)


def put(
    folder: Path,
    of: Table,
    label: str,
    seed: int,
    top1: float | None,
    *,
    budget: str = "short",
    model: str | None = None,
    about: Mapping[str, object] = ABOUT,
    data: object = DATA,
) -> str:
    """Write a result, diverged without an accuracy; returns its name."""
    row = next(r for r in of.rows if r.label == label and model in (None, r.model))
    spec = spec_of(of, row, budget, seed)
    values = {} if top1 is None else {"top1": top1, "top5": max(90.0, top1)}
    diverged = "the loss is not finite" if top1 is None else ""
    epochs = [{"epoch": i + 1.0, "test_top1": top1 or 0.0} for i in range(spec.config.epochs)]
    write_record(folder, Record(spec, values, epochs, 360.0, diverged, data, about))
    return spec.name


def put_pairs(folder: Path, of: Table, differences: Sequence[float], base: float = 60.0) -> None:
    for seed, difference in enumerate(differences):
        put(folder, of, "none", seed, base + seed)
        put(folder, of, "ab", seed, base + seed + difference)


def put_small(folder: Path, budget: str = "short") -> None:
    for label, values in SMALL.items():
        for seed, value in enumerate(values):
            put(folder, TABLES["small"], label, seed, value, budget=budget)


def the_pair(folder: Path, of: Table) -> Pair:
    (pair,) = compare_table(of, "short", read_records(folder)).pairs
    return pair


def interval_of(values: Sequence[float]) -> tuple[float, float]:
    found = ttest_1samp(values, 0).confidence_interval(0.95)
    return found.low, found.high


CLEAR = [1.0, 1.3, 1.5, 0.9, 1.2]
WIDE = [2.1, -1.4, 1.2, 0.6, -0.7]


def needed(difference: float, spread: float) -> int:
    """The smallest number of seeds whose test has a power of 80 %, by the noncentral t."""
    for n in range(3, 2000):
        limit, shift = t.ppf(0.975, n - 1), abs(difference) * n**0.5 / spread
        if nct.sf(limit, n - 1, shift) + nct.cdf(-limit, n - 1, shift) >= 0.8:
            return n
    raise AssertionError


def cells(text: str, section: str) -> list[list[str]]:
    """The rows of the first table of a section, with its header."""
    part = text[text.index(f"\n## {section}") + 1 :]
    part = part[: part.find("\n## ")]
    lines = [line for line in part.splitlines() if line.startswith("|")]
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]
    return [rows[0], *rows[2:]]

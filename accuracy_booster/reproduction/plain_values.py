"""The numbers of the report as plain values, for `reproduce report --json`."""

from __future__ import annotations

from typing import Any

from accuracy_booster.reproduction.comparing import Pair, RowResult, TableResult


def table_dict(result: TableResult) -> dict[str, Any]:
    """A table at a budget: its rows, their results by seed, and their comparisons."""
    return {
        **{"table": result.table.name, "title": result.table.title},
        **{"budgets": list(result.budgets), "measures": result.table.measures},
        **{"declared_seeds": result.table.seeds, "hours": result.hours},
        **{"printed_for": result.table.printed_for, "other_data": list(result.other_data)},
        "rows": [_row_dict(row) for row in result.rows],
    }


def _row_dict(row: RowResult) -> dict[str, Any]:
    return {
        **{"label": row.row.label, "model": row.row.model, "block": row.row.block},
        **{"printed": row.row.printed, "run": row.run, "mean": row.mean, "spread": row.spread},
        "by_seed": {str(seed): value for seed, value in row.by_seed.items()},
        "diverged": {str(seed): reason for seed, reason in row.diverged.items()},
        "differences": [_pair_dict(pair) for pair in row.pairs],
    }


def _pair_dict(pair: Pair) -> dict[str, Any]:
    found, verdict = pair.difference, pair.verdict
    return {
        **{"reference": pair.reference.label, "printed": pair.printed},
        "by_seed": {} if found is None else {str(s): d for s, d in found.by_seed.items()},
        "mean": None if found is None else found.mean,
        "spread": None if found is None else found.spread,
        "interval": None if found is None or found.interval is None else list(found.interval),
        **{"verdict": verdict.word, "so_far": verdict.so_far},
        **{"holds_printed": verdict.holds_printed, "seeds_to_tell": verdict.seeds_to_tell},
        "diverged": list(pair.diverged),
    }

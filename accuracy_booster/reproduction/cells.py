"""The cells of the report's tables, as plain text: accuracies, differences and verdicts."""

from __future__ import annotations

from accuracy_booster.analysis.paired_differences import MOST_SEEDS
from accuracy_booster.reproduction.comparing import Pair, RowResult, TableResult, decimals
from accuracy_booster.reproduction.phrases import count
from accuracy_booster.reproduction.table import AP
from accuracy_booster.reproduction.verdicts import NOT_RUN, TOO_SMALL


def unit(result: TableResult) -> str:
    """The unit of a table's differences."""
    if result.has_times:
        return "extra time in % of the reference's"
    return f"points of {'AP and AP50' if result.table.measures == AP else 'top-1 accuracy'}"


def ours(row: RowResult, result: TableResult) -> str:
    """Our mean and standard deviation, such as "72.70 ± 0.31"; "diverged"; or "not run"."""
    if row.mean is None:
        return "diverged" if row.diverged else NOT_RUN
    digits = 4 if result.has_times else 2
    spread = "" if row.spread is None else f" ± {row.spread:.{digits}f}"
    return f"{row.mean:.{digits}f}{spread}"


def measured(pair: Pair, result: TableResult) -> str:
    """Our difference with its interval, such as "+1.20 [+0.40, +2.00]"; "" without a pair.

    The number of pairs is added where it is not the row's number of seeds.
    """
    difference = pair.difference
    if difference is None:
        return ""
    percent = " %" if result.has_times else ""
    text = f"{difference.mean:+.2f}{percent}"
    if difference.interval is None:
        text += f" (one {'repetition' if percent else 'seed'})"
    else:
        text += " [{:+.2f}, {:+.2f}]".format(*difference.interval)
    row = next(row for row in result.rows if row.row is pair.row)
    number = len(difference.seeds)
    return text if number == len(row.by_seed) else f"{text} ({count(number, 'pair')})"


def printed(pair: Pair, result: TableResult) -> str:
    """The paper's difference, and whether our interval holds it: "+1.7, inside"; "" without one."""
    if pair.printed is None:
        return ""
    percent = " %" if result.has_times else ""
    where = {None: "", True: ", inside", False: ", outside"}[pair.verdict.holds_printed]
    return f"{pair.printed:+.{max(1, decimals(pair.printed))}f}{percent}{where}"


def verdict(pair: Pair) -> str:
    """The verdict, with the number of seeds that would tell and the pairs that diverged."""
    text = pair.verdict.word + (" so far" if pair.verdict.so_far else "")
    has_interval = pair.difference is not None and pair.difference.interval is not None
    if pair.verdict.word == TOO_SMALL and has_interval and pair.printed != 0:
        number = pair.verdict.seeds_to_tell
        seeds = f"over {MOST_SEEDS:,}" if number is None else f"{number:,}"
        text += f" ({seeds} seeds would tell)"
    if pair.diverged:
        text += f"; {count(len(pair.diverged), 'pair')} left out: diverged"
    return text

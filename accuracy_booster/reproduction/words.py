"""How the report tells numbers and results: the words of its cells, all plain text."""

from __future__ import annotations

from collections.abc import Iterable

from accuracy_booster.progress import printable
from accuracy_booster.reproduction.comparing import Pair, RowResult, TableResult, decimals
from accuracy_booster.reproduction.specs import Spec
from accuracy_booster.reproduction.table import AP, GATES, MERGED, Row
from accuracy_booster.reproduction.verdicts import MOST_SEEDS, NOT_RUN, TOO_SMALL


def count(number: int, word: str) -> str:
    """ "1 seed", "1,200 seeds"."""
    return f"{number:,} {word}{'s'[: number != 1]}"


def ranges(numbers: Iterable[int]) -> str:
    """ "0-2, 4" for 0, 1, 2, 4."""
    found: list[list[int]] = []
    for number in sorted(numbers):
        if found and number == found[-1][-1] + 1:
            found[-1][1:] = [number]
        else:
            found.append([number])
    return ", ".join("-".join(map(str, ends)) for ends in found)


def of_declared(number: int, declared: int) -> str:
    """ "3 of 5", or "7 (declared: 5)"."""
    return f"{number} of {declared}" if number <= declared else f"{number} (declared: {declared})"


def told(text: object) -> str:
    """A text from outside, on one line and without the marks of a name."""
    return printable(" ".join(str(text).split())).replace("`", "'")


def names(these: Iterable[str]) -> str:
    """Names of files or runs, each marked as a name."""
    return ", ".join(f"`{told(name)}`" for name in sorted(these))


def unit(result: TableResult) -> str:
    """Of a table's differences."""
    if result.has_times:
        return "extra time in % of the reference's"
    return f"points of {'AP and AP50' if result.table.measures == AP else 'top-1 accuracy'}"


# --- cells


def ours(row: RowResult, result: TableResult) -> str:
    """ "72.70 ± 0.31", or that there is none."""
    if row.mean is None:
        return "diverged" if row.diverged else NOT_RUN
    digits = 4 if result.has_times else 2
    spread = "" if row.spread is None else f" ± {row.spread:.{digits}f}"
    return f"{row.mean:.{digits}f}{spread}"


def measured(pair: Pair, result: TableResult) -> str:
    """ "+1.20 [+0.40, +2.00]", with the number of pairs where it is not the row's; or ""."""
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
    """ "+1.7, inside": the paper's difference, and whether our interval holds it; or ""."""
    if pair.printed is None:
        return ""
    percent = " %" if result.has_times else ""
    where = {None: "", True: ", inside", False: ", outside"}[pair.verdict.holds_printed]
    return f"{pair.printed:+.{max(1, decimals(pair.printed))}f}{percent}{where}"


def verdict(pair: Pair) -> str:
    """The verdict with what stands beside it."""
    text = pair.verdict.word + (" so far" if pair.verdict.so_far else "")
    has_interval = pair.difference is not None and pair.difference.interval is not None
    if pair.verdict.word == TOO_SMALL and has_interval and pair.printed != 0:
        number = pair.verdict.seeds_to_tell
        seeds = f"over {MOST_SEEDS:,}" if number is None else f"{number:,}"
        text += f" ({seeds} seeds would tell)"
    if pair.diverged:
        text += f"; {count(len(pair.diverged), 'pair')} left out: diverged"
    return text


# --- settings


def schedules(result: TableResult) -> list[str]:
    """How the networks were trained, a sentence each; and which rows differ in what."""
    if result.has_times:
        options = result.rows[0].spec.options
        return [
            f"Seconds of inference for a batch of {options['batch_size']}: the median of "
            f"{options['rounds']} rounds, in which the compiled networks take turns."
        ]
    models: dict[str, list[str]] = {}
    for model in result.table.models:
        # the settings of a row of its own are told apart
        row = next(r for r in result.rows if r.row.model == model and not r.row.settings)
        models.setdefault(_schedule(row.spec), []).append(model)
    lines = [f"{', '.join(which)}: {text}." for text, which in models.items()]
    if result.table.measures == GATES:
        lines.append(
            "The numbers of a seed are of one trained network, with its gates changed. The zeroed "
            "channels are chosen in every block, for each image by its own weights."
        )
    own = [
        f"{row.row.label} ({'; '.join(_settings(row.row))})"
        for row in result.rows
        if row.row.settings and row.row.cell not in MERGED
    ]
    return [*lines, f"Rows with settings of their own: {'; '.join(own)}."] if own else lines


def _settings(row: Row) -> list[str]:
    """What is a row's own."""
    told = [f"{name} {value}" for name, value in row.settings.items()]
    if row.after is None:
        return told
    whose = "without a block" if row.after.block == "none" else f"with {row.after.block}"
    merged = ", its gates made constants" if row.after.merged else ""
    return [f"goes on from the network {whose}{merged}", *told]


def _schedule(spec: Spec) -> str:
    c = spec.config
    falls = "along a cosine to zero"
    if c.schedule == "step":
        falls = f"times {c.gamma:g} after {', '.join(f'{100 * m:.0f}' for m in c.milestones)} %"
    gates = "" if c.gate_lr is None else f" ({c.gate_lr:g} for the gates)"
    start = "" if c.weights is None else f" from the weights {c.weights}"
    warmups = [(c.warmup_epochs, "epoch"), (c.warmup_steps, "step")]
    warmup = "".join(f", {count(number, what)} of warm-up" for number, what in warmups if number)
    return (
        f"{count(c.epochs, 'epoch')}{start}, batches of {c.batch_size}, SGD with "
        f"{'Nesterov ' * c.nesterov}momentum {c.momentum:g}, a learning rate of {c.lr:g}{gates} "
        f"that falls {falls}{warmup}, weight decay {c.weight_decay:g}"
    )

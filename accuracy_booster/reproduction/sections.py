"""All sections of the report, as plain text: head, summary, rule, tables, and what was not run.

All numbers and words are computed from the results.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from accuracy_booster.data import BUILT_IN
from accuracy_booster.reproduction import cells
from accuracy_booster.reproduction.comparing import label_of
from accuracy_booster.reproduction.findings import Findings, budgets_of
from accuracy_booster.reproduction.phrases import count, duration, name_list, one_line
from accuracy_booster.reproduction.places import LAYOUTS
from accuracy_booster.reproduction.record import Record
from accuracy_booster.reproduction.result_files import Records
from accuracy_booster.reproduction.section import Section
from accuracy_booster.reproduction.specs import plan, spec_of
from accuracy_booster.reproduction.table import Table
from accuracy_booster.reproduction.table_section import section_of
from accuracy_booster.reproduction.tables import TABLES
from accuracy_booster.reproduction.time_left import hours_left
from accuracy_booster.reproduction.verdicts import rule
from accuracy_booster.reproduction.work_list import missing_runs

COMMAND = "accuracy-booster reproduce report"
TITLE = "The paper's tables, made again"
AT_HAND = (*BUILT_IN, None)  # data sets that are built in or downloaded; None: no data
NO_LAYOUT = (*BUILT_IN, "coco_tiny")  # data sets whose layout no reader of the page needs


def all_sections(findings: Findings, records: Records) -> list[Section]:
    """All sections in their order. The first has no title."""
    return [
        _head(findings, records),
        *([_in_short(findings)] if findings.tables else []),
        Section("The rule", rule=rule().strip()),
        *(section_of(result, findings) for result in findings.tables),
        _not_run(records),
    ]


# --- what it is made from


def _head(findings: Findings, records: Records) -> Section:
    """What the page is made from: results, machines, software, and what is left out."""
    made = f"`{COMMAND}` made this page from the result files alone."
    left_out = _left_out(findings, records)
    used = findings.used.values()
    if not used:
        text = f"Nothing was run: there is no result of a table. {made}"
        return Section(text=text, items=left_out)
    ended = sorted(str(record.about["ended"]) for record in used if record.about.get("ended"))
    when = f", made from {one_line(ended[0][:10])} to {one_line(ended[-1][:10])}" if ended else ""
    items = [
        f"Results: {len(used)}, with {duration(findings.hours)} of compute{when}.",
        f"Processors: {_counted(used, lambda about: about.get('processor'))}.",
        f"Code: {_counted(used, _code)}.",
        f"Built on: {_counted(used, _software)}.",
    ]
    text = (
        "This page sets our own accuracies and times beside those that the paper prints. A block "
        "is compared with a reference seed by seed: with the network without a block, or with "
        f"another block. {made}"
    )
    return Section(text=text, items=[*items, *left_out])


def _counted(records: Iterable[Record], what: Callable[[Mapping[str, Any]], Any]) -> str:
    """A property of results; if they differ in it, each value with its number of results."""
    counts = Counter(one_line(what(record.about) or "unknown") for record in records)
    if len(counts) == 1:
        return next(iter(counts))
    return "; ".join(f"{value} ({count(n, 'result')})" for value, n in sorted(counts.items()))


def _code(about: Mapping[str, Any]) -> str:
    code = about.get("code") or {}
    commit = f"commit {code['commit']}" if code.get("commit") else "no known commit"
    return f"accuracy-booster {code.get('package', '')} ({commit})"


def _software(about: Mapping[str, Any]) -> str:
    packages = about.get("packages") or {}
    python = [f"Python {about['python']}"] if about.get("python") else []
    return ", ".join([*python, *(f"{name} {version}" for name, version in packages.items())])


def _left_out(findings: Findings, records: Records) -> list[str]:
    """A line for each reason for which results or files are left out of the tables."""
    items = []
    if number := len(findings.smoke):
        meaning = "Its accuracies mean nothing."
        items.append(f"Left out: {count(number, 'result')} of the budget smoke. {meaning}")
    for reason, these in (
        ("of other images than the data set has", findings.other_data),
        ("of seeds beyond those that the tables declare", findings.beyond),
        ("that no table asks for", findings.unasked),
    ):
        if these:
            items.append(f"Left out: {count(len(these), 'result')} {reason}: {name_list(these)}.")
    reasons: dict[str, list[str]] = {}
    for path, reason in records.left_out.items():
        reasons.setdefault(one_line(reason.replace(path.name, "it")), []).append(path.name)
    for reason, files in sorted(reasons.items()):
        items.append(f"Left out: {count(len(files), 'file')}, {name_list(files)}: {reason}.")
    return items


# --- in short


def _in_short(findings: Findings) -> Section:
    """All comparisons in one table, with the counts of the verdicts and how to read them."""
    rows = []
    for found in findings.pairs().values():
        result, pair = found[0]
        where = [f"{other.table.heading}, {other.budget}" for other, _ in found]
        rows.append(
            [
                "; ".join(where),
                f"{result.label(pair.row)} minus {pair.reference.label}",
                cells.measured(pair, result),
                str(0 if pair.difference is None else len(pair.difference.seeds)),
                cells.printed(pair, result),
                cells.verdict(pair),
            ]
        )
    header = ["table, budget", "difference", "ours", "seeds", "paper", "verdict"]
    number = findings.intervals
    misses = f"; of these that is {number / 20:.1f}" if number else ""
    text = (
        f"{verdicts_line(findings)} A verdict is about the network and the schedule of its table: "
        "what a small network does in few epochs need not hold for the paper's. "
        f"The page has {count(number, 'interval')} of 95 %. One in "
        f"twenty such intervals misses the true difference{misses}. "
        "Differences are in points of top-1 accuracy, of a detector's average precision in Table "
        "9, or in % of the reference's time, with their intervals in brackets. Inside and "
        "outside say whether the interval holds the paper's difference. A verdict is so far where "
        "fewer seeds than declared stand behind it. The number of seeds that would tell is the one "
        "that tells the paper's difference from zero with a power of 80 %, given the spread that "
        "was found. It can be smaller than the number that was run: then what was found is smaller "
        "than what the paper prints."
    )
    return Section("In short", text, table=(header, rows) if rows else None)


def verdicts_line(findings: Findings) -> str:
    """How often each verdict was reached, as a sentence."""
    said = ", ".join(f"{number} {word}" for word, number in findings.verdicts().items())
    return f"Of the differences in all tables: {said}."


# --- what is missing


def _not_run(records: Records) -> Section:
    """What each table lacks, what it needs, and the command that makes it."""
    rows = []
    for table in TABLES.values():
        for alike in budgets_of(table):
            rows += _missing(table, alike, records)
    text = (
        "What each table lacks. The budget paper is the standard schedule of the network's family, "
        "and the budget short is the same in few epochs. Hours are those of the processors above, "
        "from the runs that have ended there."
    )
    header = ["table", "budget", "not run", "what it needs", "command"]
    layouts = [f"{name}: {LAYOUTS[name]}" for name in LAYOUTS if name not in NO_LAYOUT]
    title = "How data sets that are not downloaded are laid out:"
    return Section("Not run", text, table=(header, rows), items_title=title, items=layouts)


def _missing(table: Table, alike: tuple[str, ...], records: Records) -> list[list[str]]:
    """The line on a table at a budget; no line if nothing is missing."""
    specs = plan([table], alike[0])
    missing = missing_runs(specs, records)
    if not missing:
        return []
    begun = {hash_ for hash_, _ in records.found}
    unrun = [
        label_of(table, row)
        for row in table.rows
        if spec_of(table, row, alike[0], 0).hash not in begun
    ]
    some = f"{count(len(unrun), 'row')} ({'; '.join(unrun)})" if unrun else "no whole row"
    which = "all rows" if len(unrun) == len(table.rows) else some
    read = {str(data): None for s in specs if (data := s.options.get("data")) not in AT_HAND}
    needs = [f"the data set {data}" for data in sorted(read)]
    needs += ["a GPU"] if alike == ("paper",) else []
    command = f"accuracy-booster reproduce run {table.name} --budget {alike[0]}"
    return [
        [
            *(table.heading, " and ".join(alike)),
            f"{which}, {len(missing)} of {count(len(specs), 'run')}",
            "; ".join([*needs, hours_left(missing, records)]),
            f"`{command}`",
        ]
    ]

"""The section of the report on one table: its rows, notes, picture and result files."""

from __future__ import annotations

from accuracy_booster.reproduction import cells
from accuracy_booster.reproduction.comparing import RowResult, TableResult
from accuracy_booster.reproduction.findings import Findings
from accuracy_booster.reproduction.phrases import (
    count,
    duration,
    name_list,
    of_declared,
    one_line,
    ranges,
)
from accuracy_booster.reproduction.schedules import schedule_sentences
from accuracy_booster.reproduction.section import LayerWeights, Section


def section_of(result: TableResult, findings: Findings) -> Section:
    """The section on a table at a budget."""
    table, weights = result.table, _weights(result, findings)
    header, rows = _without_empty_columns(*_table(result))
    return Section(
        f"{table.heading}, budget {result.budget}: {table.title}",
        " ".join([*_notes(result), *([f"{weights}."] if weights else [])]),
        picture=result,
        weights=weights,
        table=(header, rows),
        items_title="Runs, each a file NAME-sSEED.json:",
        items=_runs(result),
    )


def _table(result: TableResult) -> tuple[list[str], list[list[str]]]:
    """The header and the rows, with three columns for the comparisons with each reference."""
    table, several = result.table, len(result.table.models) > 1
    references = list(dict.fromkeys(pair.reference.heading for pair in result.pairs))
    unit = "s" if result.has_times else "%"
    header = ["network"] * several + ["row", f"paper, {unit}", f"ours, {unit} (mean ± sd)"]
    header.append("repetitions" if result.has_times else "seeds")
    for heading in references:
        header += [f"minus {heading}", "paper", "verdict"]
    rows = []
    for row in result.rows:
        seeds = of_declared(len(row.by_seed), table.seeds)
        seeds += f", {len(row.diverged)} diverged" if row.diverged else ""
        printed = "" if row.row.printed is None else str(row.row.printed)
        line = [row.row.model] * several
        line += [row.row.label, printed, cells.ours(row, result), seeds]
        for heading in references:
            pair = next((p for p in row.pairs if p.reference.heading == heading), None)
            if pair is None:
                line += [""] * 3
            else:
                line += [cells.measured(pair, result), cells.printed(pair, result)]
                line.append(cells.verdict(pair))
        rows.append(line)
    return header, rows


def _weights(result: TableResult, findings: Findings) -> LayerWeights | None:
    """The weights for Figure 3, of the first seed of a table of gates; None for other tables."""
    hashes = {row.spec.hash for row in result.rows}
    for record in findings.used.values():
        figure = record.about.get("figure_3")
        if record.spec.hash in hashes and isinstance(figure, dict):
            means = tuple(float(value) for value in figure["mean_weights"])
            network = f"{record.spec.model} with {record.spec.block}"
            return LayerWeights(network, one_line(figure["layer"]), record.spec.seed, means)
    return None


def _without_empty_columns(
    header: list[str], rows: list[list[str]]
) -> tuple[list[str], list[list[str]]]:
    """A table without those columns of the paper's numbers that are empty."""
    kept = [
        i for i, name in enumerate(header) if "paper" not in name or any(row[i] for row in rows)
    ]
    return [header[i] for i in kept], [[row[i] for i in kept] for row in rows]


def _notes(result: TableResult) -> list[str]:
    """Sentences on the schedule, the seeds, the machines, and what the paper leaves open."""
    table = result.table
    ended = sorted({len(row.by_seed) for row in result.rows})
    number = " to ".join(map(str, dict.fromkeys((ended[0], ended[-1]))))
    what = count(table.seeds, "repetition" if result.has_times else "seed")
    notes = [
        *schedule_sentences(result),
        f"Declared: {what} a row; ended: {number}, in {duration(result.hours)} of compute.",
    ]
    if len(result.machines) > 1:
        which = "; ".join(map(one_line, result.machines))
        notes.append(
            f"Its runs were made on {count(len(result.machines), 'kind')} of machine or software, "
            f"so runs of one seed may differ in more than the block: {which}."
        )
    if table.note:
        notes.append(table.note)
    if table.printed_for:
        notes.append(f"The paper's numbers are those of another network, {table.printed_for}.")
    return notes


def _runs(result: TableResult) -> list[str]:
    """The result files of each row, one line for each run."""
    items = []
    for row in _first_of_each_run(result):
        if row.seeds:
            alike = [other.row for other in result.rows if other.run == row.run]
            which = "all rows" if len(alike) == len(result.rows) else None
            which = which or "; ".join(map(result.label, alike))
            seeds = f"seed{'s'[: len(row.seeds) != 1]} {ranges(row.seeds)}"
            items.append(f"{which}: `{row.run}`, {seeds}")
        for seed, reason in row.diverged.items():
            items[-1] += f"; seed {seed} diverged: {one_line(reason)}"
    if result.other_data:
        number = count(len(result.other_data), "result")
        items.append(f"left out: {number} of other images, {name_list(result.other_data)}")
    return items


def _first_of_each_run(result: TableResult) -> list[RowResult]:
    """The first row of each run, since several rows can share a run."""
    return list({row.run: row for row in reversed(result.rows)}.values())[::-1]

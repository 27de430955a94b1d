"""Write the table of trainers and steps into docs/trainers/index.md.

    python docs/write_trainers.py

The numbers are those of benchmarks/other_trainers.json.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
PAGE = ROOT / "docs" / "trainers" / "index.md"
RESULTS = ROOT / "benchmarks" / "other_trainers.json"
BEGIN, END = "<!-- trainers -->\n", "<!-- /trainers -->\n"
STEPS = ("boost", "train", "resume", "save", "load in a new process", "export")


def page(before: str, results: dict[str, Any]) -> str:
    """The page with the tables of the results."""
    head, _, rest = before.partition(BEGIN)
    _, _, tail = rest.partition(END)
    return f"{head}{BEGIN}\n{table(results)}\n{tests(results)}\n{versions(results)}\n{END}{tail}"


def table(results: dict[str, Any]) -> str:
    """One line for each trainer: gates after each step, and by how much the outputs differ."""
    lines = [f"| trainer | {' | '.join(STEPS)} |", "|---" * (len(STEPS) + 1) + "|"]
    for trainer, found in by_trainer(results).items():
        cells = [cell(found[step]) if step in found else "" for step in STEPS]
        lines.append(f"| {trainer} | {' | '.join(cells)} |")
        reasons = [row for step, row in found.items() if row["why not"] and step not in STEPS]
        lines += [f"| | {row['step']}: {row['why not']} |" + " |" * 5 for row in reasons]
    return "\n".join(lines) + "\n"


def cell(row: dict[str, Any]) -> str:
    if row["why not"]:
        return f"**{row['gates']} of {row['expected']}**: {row['why not']}"
    off = row["difference"]
    return f"{row['gates']} of {row['expected']}" + ("" if off is None else f"; {shown(off)}")


def shown(difference: float) -> str:
    return "0" if difference == 0 else f"{difference:.0e}".replace("e-0", "e-")


def tests(results: dict[str, Any]) -> str:
    """The tests and the remarks of each trainer."""
    lines = ["| trainer | tests | remarks |", "|---|---|---|"]
    for trainer, found in by_trainer(results).items():
        names = dict.fromkeys(row["test"] for row in found.values() if row.get("test"))
        notes = [f"{step}: {row['note']}" for step, row in found.items() if row.get("note")]
        lines.append(f"| {trainer} | {', '.join(map(test, names))} | {'; '.join(notes)} |")
    return "\n".join(lines) + "\n"


def test(name: str) -> str:
    return f"`{name.rpartition('::')[2]}`"


def versions(results: dict[str, Any]) -> str:
    """What was installed, and on which processor it ran."""
    lines = ["| command | versions | processor |", "|---|---|---|"]
    for result in results.values():
        installed = ", ".join(f"{name} {number}" for name, number in result["versions"].items())
        lines.append(f"| `{result['command']}` | {installed} | {result['processor']} |")
    return "\n".join(lines) + "\n"


def by_trainer(results: dict[str, Any]) -> dict[str, dict[str, dict[str, Any]]]:
    """{trainer: {step: its row}}. A trainer that ended in an error has a step of another name."""
    found: dict[str, dict[str, dict[str, Any]]] = {}
    for result in results.values():
        for row in result["rows"]:
            found.setdefault(row["trainer"], {})[row["step"]] = row
    return found


if __name__ == "__main__":
    PAGE.write_text(page(PAGE.read_text(), json.loads(RESULTS.read_text())))

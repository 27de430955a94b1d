"""What the benchmarks share that publish figures: a machine without other work, and Markdown."""

from __future__ import annotations

import argparse
import json
import re
import statistics
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

from accuracy_booster.analysis.machine import Machine
from accuracy_booster.fastpath.frozen import Frozen
from accuracy_booster.reproduction.choices import WORK
from accuracy_booster.reproduction.pausing import is_paused, pause, resume
from accuracy_booster.reproduction.places import Places

MARKS = re.compile(r"(<!-- measured (\S+) -->\n).*?(\n<!-- end -->)", re.DOTALL)
PATIENCE = 900.0  # seconds for a run to save where it is


@contextmanager
def nothing_else_running(work: str = WORK) -> Iterator[None]:
    """Pause the `reproduce run` of a work folder; it goes on afterwards from its checkpoint."""
    places = Places(work=Path(work)).absolute()
    if not places.work.is_dir() or is_paused(places):
        yield
        return
    try:
        if stopped := pause(places, PATIENCE):
            print(f"paused the run {stopped} of {work}", flush=True)
        yield
    finally:
        resume(places)


def filled(text: str, write: Callable[[str], str | None]) -> str:
    """A document with what was measured between its marks `<!-- measured NAME -->`.

    Args:
        write: gives the text of a NAME; None for a NAME of another benchmark, which stays.
    """

    def fill(match: re.Match[str]) -> str:
        new = write(match[2])
        return match[0] if new is None else match[1] + new + match[3]

    return MARKS.sub(fill, text)


def arguments(
    parser: argparse.ArgumentParser, benchmark: str, page: str = "docs/deploy.md"
) -> None:
    """The options that benchmarks share.

    Args:
        benchmark: its file; the JSON stands beside it.
        page: what `--write` fills.
    """
    parser.add_argument("--work", default=WORK, help="a `reproduce run` in this folder is paused")
    parser.add_argument("--output", type=Path, default=Path(benchmark).with_suffix(".json"))
    parser.add_argument(
        "--write", action="store_true", help=f"write the tables into {page}, measure nothing"
    )


def fill(page: Path, written: Callable[[str, Any], str | None], output: Path) -> None:
    """Put what a benchmark's JSON holds between the marks of a page.

    Args:
        written: the text for a mark's name and the JSON's value; None for another's mark.
        output: the JSON.
    """
    done = json.loads(output.read_text())
    page.write_text(filled(page.read_text(), partial(written, done=done)))


def quartiles(values: Sequence[float]) -> dict[str, float]:
    """The median of ratios and their quartiles, as `ratio` shows them."""
    low, middle, high = statistics.quantiles(values, n=4)
    return {"ratio": round(middle, 4), "low": round(low, 4), "high": round(high, 4)}


def with_machine(old: Sequence[dict[str, Any]], new: dict[str, Any]) -> list[dict[str, Any]]:
    """Results of several machines, with a new one in the place of those of the same machine."""
    device = new["machine"]["device"]
    return [*(result for result in old if result["machine"]["device"] != device), new]


def markdown(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A table."""
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def ratio(found: dict[str, float] | None) -> str:
    """A ratio with its quartiles; empty where there is none."""
    return f"{found['ratio']:.3f} ({found['low']:.3f} to {found['high']:.3f})" if found else ""


def machine(found: dict[str, Any]) -> str:
    """The machine of a result, in words."""
    return str(Machine(**found))


def rounds(rows: Iterable[dict[str, Any]]) -> str:
    """How many rounds the rows had, such as "9 to 25"."""
    found = sorted({row["rounds"] for row in rows})
    return f"{found[0]} to {found[-1]} rounds" if len(found) > 1 else f"{found[0]} rounds"


def joined(frozen: dict[str, int]) -> str:
    """What a profile shows, in words."""
    return str(Frozen(**frozen))

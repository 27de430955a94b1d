"""What `ab.bench` found: a row for each variant, tables of text, plain values for JSON."""

from __future__ import annotations

import itertools
import textwrap
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from statistics import median, quantiles
from typing import Any, NamedTuple

from accuracy_booster.analysis.machine import Machine
from accuracy_booster.fastpath.frozen import Frozen
from accuracy_booster.tables import Table

# Table 3: seconds for a batch of 256, ResNet-50 on a Titan X, as ratios to the baseline's 0.152 s
PAPER = {"none": 1.0, "se": 0.187 / 0.152, "ab": 0.163 / 0.152, "ab_plus": 0.192 / 0.152}

LINE = 79  # characters of the summary's lines, so that they fit a narrow terminal
LEGEND = {  # what the columns of the tables mean
    "path": "naive is the network as it is, ours is folded or fused, rival is another network as "
    "it is",
    "of stock": "the time over that of the network without a block as people run it today (path "
    "naive), the median over the rounds, with its quartiles in brackets. With few rounds, or on a "
    "busy machine, trust no difference within them.",
    "of same treatment": "the same over the network without a block that is folded or fused too "
    "(path ours). Other paths have no such treatment, and no figure.",
    "memory ratio": "the memory over that of the network without a block on the same path",
    "fast path": "the places of gates that take it, of all",
    "frozen": "convolutions with constant weights, of all",
    "paper": "the time in its Table 3 over the baseline's, batch 256 on a Titan X",
}


@dataclass(frozen=True)
class Case:
    """What is measured: a mode, a batch size, compiled or eager, and a precision."""

    mode: str
    batch_size: int
    compile: bool
    precision: str = "fp32"

    def __str__(self) -> str:
        how = "compiled" if self.compile else "eager"
        precision = "" if self.precision == "fp32" else f", {self.precision}"
        return f"{self.mode}, batch {self.batch_size}, {how}{precision}"


class Variant(NamedTuple):
    """A network of a case.

    Attributes:
        path: "naive" (as it is), "ours" (folded or fused), or "rival" (another network, as it is).
        block: the block, or the rival's name.
    """

    path: str
    block: str


# The two opponents: the network without a block as people run it today, and with the treatment
# that a boosted network gets.
STOCK, SAME = Variant("naive", "none"), Variant("ours", "none")


@dataclass(frozen=True)
class Measured:
    """What was measured of one variant of a case.

    Attributes:
        milliseconds: the time of a batch in each round.
        memory: bytes of tensors at the highest point above what is held before a batch.
        fast, places: how many gates (or the places of gates) take the fast path, of how many.
        frozen: the convolutions of the compiled network; None where there was nothing to check.
    """

    milliseconds: list[float]
    memory: int
    fast: int = 0
    places: int = 0
    frozen: Frozen | None = None


@dataclass(frozen=True)
class Ratio:
    """The time over an opponent's in the same round: the median over the rounds, and quartiles."""

    ratio: float
    low: float
    high: float

    def __str__(self) -> str:
        return f"{self.ratio:.3f} ({self.low:.3f}-{self.high:.3f})"


def ratio(own: Sequence[float], opponent: Sequence[float]) -> Ratio:
    """The ratio of two variants' times, a number for each round."""
    found = [a / b for a, b in zip(own, opponent, strict=True)]
    low, _, high = quantiles(found, n=4) if len(found) > 1 else found * 3
    return Ratio(median(found), low, high)


@dataclass(frozen=True)
class Timing:
    """One row of a benchmark: a variant of a case.

    Attributes:
        path: "naive" (the boosted network as it is), "ours" (folded or fused) or "rival".
        block: the block, or the rival's name.
        milliseconds: the median time of a batch.
        of_stock: the ratio to the network without a block as people run it today.
        of_same: the ratio to the network without a block, folded or fused as ours. Tables show it
            for the path "ours" alone: the other rows have not had this treatment.
        memory: bytes of tensors at the highest point above what is held before.
        memory_ratio: the memory over that of the network without a block on the same path.
        fast, places: how many gates (or the places of gates) take the fast path, of how many.
        rounds: how many there were.
        frozen: the convolutions of the compiled network, as `fastpath.frozen.Frozen`; None where
            there was nothing to check.
        paper: Table 3's ratio, for a batch of 256 on a Titan X; None where the paper has none.
    """

    mode: str
    batch_size: int
    compile: bool
    precision: str
    block: str
    path: str
    milliseconds: float
    of_stock: Ratio
    of_same: Ratio
    memory: int
    memory_ratio: float
    fast: int
    places: int
    rounds: int
    frozen: dict[str, int] | None
    paper: float | None


def timings(case: Case, model: str, found: Mapping[Variant, Measured]) -> list[Timing]:
    """The rows of a case, from what was measured of each variant.

    Both opponents, STOCK and SAME, must be among them.
    """
    return [_timing(case, model, variant, found) for variant in found]


def _timing(case: Case, model: str, variant: Variant, found: Mapping[Variant, Measured]) -> Timing:
    own, stock, same = found[variant], found[STOCK], found[SAME]
    alike = same if variant.path == "ours" else stock
    in_paper = model == "resnet50" and case.mode == "infer"
    return Timing(
        **asdict(case),
        block=variant.block,
        path=variant.path,
        milliseconds=median(own.milliseconds),
        of_stock=ratio(own.milliseconds, stock.milliseconds),
        of_same=ratio(own.milliseconds, same.milliseconds),
        memory=own.memory,
        memory_ratio=own.memory / max(1, alike.memory),
        fast=own.fast,
        places=own.places,
        rounds=len(own.milliseconds),
        frozen=asdict(own.frozen) if own.frozen else None,
        paper=PAPER.get(variant.block) if in_paper else None,
    )


@dataclass(frozen=True)
class Bench:
    """The result of `ab.bench`: what was measured, and on which machine.

    Attributes:
        left_out: what was asked for and not measured, and why, in one line each.
    """

    model: str
    input_size: tuple[int, ...]
    machine: Machine
    rounds: int
    rows: list[Timing]
    left_out: list[str] = field(default_factory=list)

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return asdict(self)

    def tables(self) -> Iterator[tuple[str, Sequence[str], Sequence[Sequence[str]]]]:
        """Title, header and rows: the times of each case, and its memory and fast path."""
        for case, found in itertools.groupby(
            self.rows, key=lambda r: Case(r.mode, r.batch_size, r.compile, r.precision)
        ):
            rows = list(found)
            yield f"{case}: time", *_table(rows, TIME)
            yield f"{case}: memory and fast path", *_table(rows, MEMORY)

    def summary(self) -> str:
        """The machine, what the columns of the tables mean, and what was left out."""
        size = "x".join(map(str, self.input_size))
        counts = sorted({r.rounds for r in self.rows})
        rounds = f"{'/'.join(map(str, counts))} round{'s'[: counts != [1]]}"
        shown = {name for _, header, _ in self.tables() for name in header}
        return "\n".join(
            line
            for text in (
                f"{self.model}, images of {size}, {rounds} in turns",
                str(self.machine),
                *(f"{name}: {LEGEND[name]}" for name in LEGEND if name in shown),
                *(f"left out: {what}" for what in self.left_out),
            )
            for line in textwrap.wrap(text, LINE, break_on_hyphens=False)
        )


def _time(row: Timing) -> list[str]:
    """The cells of a row in the table of times."""
    ms = row.milliseconds
    of_same = str(row.of_same) if row.path == "ours" else ""
    ratios = [str(row.of_stock), of_same]
    if row.block == "none":  # an opponent, compared with itself
        ratios[row.path == "ours"] = "1"
    return [f"{ms:.{2 if ms < 100 else 1}f}", *ratios]


def _memory(row: Timing) -> list[str]:
    """The cells of a row in the table of memory."""
    frozen = ""
    if row.frozen:
        count = row.frozen["packed"] + row.frozen["ours"]
        frozen = f"{count} of {count + row.frozen['plain']}"
    return [
        *(f"{row.memory / 1e6:.1f} MB", f"{row.memory_ratio:.3f}"),
        *(f"{row.fast} of {row.places}" if row.places else "", frozen),
        "" if row.paper is None else f"{row.paper:.3f}",
    ]


# The columns of a case's two tables: with the quartiles of two ratios, one would be too wide.
TIME = ("ms", "of stock", "of same treatment"), _time
MEMORY = ("memory", "memory ratio", "fast path", "frozen", "paper"), _memory


def _table(
    rows: Sequence[Timing], columns: tuple[Sequence[str], Callable[[Timing], list[str]]]
) -> Table:
    """A table without the columns that are empty in all rows."""
    names, cells = columns
    every = [[row.block, row.path, *cells(row)] for row in rows]
    header = ["block", "path", *names]
    kept = [i for i, column in enumerate(zip(*every, strict=True)) if any(column)]
    return Table([header[i] for i in kept], [[row[i] for i in kept] for row in every])

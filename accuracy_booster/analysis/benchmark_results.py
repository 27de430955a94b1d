"""What `ab.bench` found: a row for each variant, tables of text, plain values for JSON."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from statistics import median, quantiles
from typing import Any, NamedTuple

from accuracy_booster.analysis.machine import Machine
from accuracy_booster.fastpath.frozen import Frozen

# Table 3: seconds for a batch of 256, ResNet-50 on a Titan X, as ratios to the baseline's 0.152 s
PAPER = {"none": 1.0, "se": 0.187 / 0.152, "ab": 0.163 / 0.152, "ab_plus": 0.192 / 0.152}


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
        return f"{self.ratio:.3f} ({self.low:.3f} to {self.high:.3f})"


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
        of_same: the ratio to the network without a block, folded or fused as ours.
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
    """The result of `ab.bench`: what was measured, and on which machine."""

    model: str
    input_size: tuple[int, ...]
    machine: Machine
    rounds: int
    rows: list[Timing]

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return asdict(self)

    def tables(self) -> Iterator[tuple[str, list[str], list[list[str]]]]:
        """A title, header and rows for each case."""
        header = ["block", "path", "ms", "of stock", "of same treatment", "memory"]
        header += ["memory ratio", "fast path", "frozen", "paper"]
        for case, rows in itertools.groupby(
            self.rows, key=lambda r: Case(r.mode, r.batch_size, r.compile, r.precision)
        ):
            yield str(case), header, [_cells(row) for row in rows]

    def summary(self) -> str:
        """The machine, and what the columns of the tables mean."""
        size = "x".join(map(str, self.input_size))
        rounds = "/".join(map(str, sorted({r.rounds for r in self.rows})))
        return (
            f"{self.model}, images of {size}, {self.machine}, {rounds} rounds in turns.\n"
            "of stock: the time over that of the network without a block as people run it today\n"
            "(path naive), the median over the rounds and its quartiles.\n"
            "of same treatment: the same over that network folded or fused by us (path ours).\n"
            "fast path: the gates that take it; frozen: convolutions whose weights are; paper: its "
            "Table 3, batch 256 on a Titan X.\n"
            "A few rounds tell little on a busy machine: see the quartiles."
        )


def _cells(row: Timing) -> list[str]:
    frozen = ""
    if row.frozen:
        count = row.frozen["packed"] + row.frozen["ours"]
        frozen = f"{count} of {count + row.frozen['plain']}"
    return [
        *(row.block, row.path, f"{row.milliseconds:.2f}", str(row.of_stock), str(row.of_same)),
        *(f"{row.memory / 1e6:.1f} MB", f"{row.memory_ratio:.3f}"),
        *(f"{row.fast} of {row.places}", frozen),
        "" if row.paper is None else f"{row.paper:.3f}",
    ]

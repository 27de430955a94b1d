"""What `ab.bench` found: a row for each variant, tables of text, plain values for JSON."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from statistics import median, quantiles
from typing import Any, NamedTuple

from accuracy_booster.fastpath.compiled import Frozen

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
    """A network of a case: as it is ("naive") or folded or fused ("ours"), with which block."""

    path: str
    block: str


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
class Timing:
    """One row of a benchmark: a variant of a case.

    Attributes:
        path: "naive" (the boosted network as it is) or "ours" (folded or fused).
        milliseconds: the median time of a batch.
        ratio: the time over that of the unboosted network on the same path in the same round, the
            median over the rounds; low and high are its quartiles.
        ratio_naive: the same over the unboosted network as it is.
        memory: bytes of tensors at the highest point above what is held before.
        memory_ratio: the memory over that of the unboosted network on the same path.
        fast, places: how many gates (or the places of gates) take the fast path, of how many.
        rounds: how many there were.
        frozen: the convolutions of the compiled network, as `fastpath.compiled.Frozen`; None where
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
    ratio: float
    low: float
    high: float
    ratio_naive: float
    memory: int
    memory_ratio: float
    fast: int
    places: int
    rounds: int
    frozen: dict[str, int] | None
    paper: float | None


def timings(case: Case, model: str, found: Mapping[Variant, Measured]) -> list[Timing]:
    """The rows of a case, from what was measured of each variant.

    The variants without a block ("none") must be among them, on every path.
    """
    return [_timing(case, model, variant, found) for variant in found]


def _timing(case: Case, model: str, variant: Variant, found: Mapping[Variant, Measured]) -> Timing:
    own, base = found[variant], found[variant._replace(block="none")]
    naive = found.get(Variant("naive", "none"), base)
    ratios = _ratios(own, base)
    low, _, high = quantiles(ratios, n=4) if len(ratios) > 1 else ratios * 3
    in_paper = model == "resnet50" and case.mode == "infer"
    return Timing(
        **asdict(case),
        block=variant.block,
        path=variant.path,
        milliseconds=median(own.milliseconds),
        ratio=median(ratios),
        low=low,
        high=high,
        ratio_naive=median(_ratios(own, naive)),
        memory=own.memory,
        memory_ratio=own.memory / max(1, base.memory),
        fast=own.fast,
        places=own.places,
        rounds=len(ratios),
        frozen=asdict(own.frozen) if own.frozen else None,
        paper=PAPER.get(variant.block) if in_paper else None,
    )


def _ratios(own: Measured, base: Measured) -> list[float]:
    """The ratio of the times in each round."""
    return [a / b for a, b in zip(own.milliseconds, base.milliseconds, strict=True)]


@dataclass(frozen=True)
class Bench:
    """The result of `ab.bench`: what was measured, and on which machine."""

    model: str
    input_size: tuple[int, int, int]
    device: str
    threads: int
    rounds: int
    torch: str
    rows: list[Timing]

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return asdict(self)

    def tables(self) -> Iterator[tuple[str, list[str], list[list[str]]]]:
        """A title, header and rows for each case."""
        header = ["block", "path", "ms", "time ratio", "quartiles", "to plain", "memory"]
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
            f"{self.model}, images of {size}, {self.device}, {self.threads} threads, torch "
            f"{self.torch}, {rounds} rounds in turns.\nRatios are to the network without a "
            "block on the same path (naive: as it is; ours: folded or fused), medians over the "
            "rounds;\nto plain: to that network as it is; fast path: the gates that take it; "
            "frozen: convolutions whose weights are;\npaper: its Table 3, batch 256 on a "
            "Titan X.\nA few rounds tell little on a busy machine: see the quartiles."
        )


def _cells(row: Timing) -> list[str]:
    frozen = ""
    if row.frozen:
        frozen = f"{row.frozen['packed']} of {row.frozen['packed'] + row.frozen['plain']}"
    return [
        *(row.block, row.path, f"{row.milliseconds:.2f}", f"{row.ratio:.3f}"),
        *(f"{row.low:.3f} to {row.high:.3f}", f"{row.ratio_naive:.3f}"),
        *(f"{row.memory / 1e6:.1f} MB", f"{row.memory_ratio:.3f}"),
        *(f"{row.fast} of {row.places}", frozen),
        "" if row.paper is None else f"{row.paper:.3f}",
    ]

"""What a benchmark of blocks found: rows, tables, JSON."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import Any

# Table 3: seconds for a batch of 256, ResNet-50 on a Titan X, as ratios to the baseline's 0.152 s
PAPER = {"none": 1.0, "se": 0.187 / 0.152, "ab": 0.163 / 0.152, "ab_plus": 0.192 / 0.152}


@dataclass(frozen=True)
class Case:
    """What is measured: a mode, a batch size, compiled or eager."""

    mode: str
    batch_size: int
    compile: bool

    def __str__(self) -> str:
        how = "compiled" if self.compile else "eager"
        return f"{self.mode}, batch {self.batch_size}, {how}"


@dataclass(frozen=True)
class Timing:
    """One variant of a case.

    Attributes:
        path: "naive" (the boosted network as it is) or "ours" (folded or fused).
        milliseconds: the median time of a batch.
        ratio: to the unboosted network on the same path, the median over the rounds; low and high
            are its quartiles.
        ratio_naive: to the unboosted network as it is.
        memory: bytes of tensors at the highest point above what is held before; its ratio is to
            the unboosted network on the same path.
        fast, places: gates (or their places) that took the fast path, and all.
        rounds: how many there were.
        frozen: the convolutions of the compiled network, as `fastpath.compiled.Frozen`; None where
            there was nothing to check.
        paper: Table 3's ratio, for a batch of 256 on a Titan X; None where the paper has none.
    """

    mode: str
    batch_size: int
    compile: bool
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


@dataclass(frozen=True)
class Bench:
    """What was measured, on what."""

    model: str
    input_size: tuple[int, int, int]
    device: str
    threads: int
    rounds: int
    torch: str
    rows: list[Timing]

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)

    def tables(self) -> Iterator[tuple[str, list[str], list[list[str]]]]:
        """A title, header and rows for each case."""
        header = ["block", "path", "ms", "time ratio", "quartiles", "to plain", "memory"]
        header += ["memory ratio", "fast path", "frozen", "paper"]
        for case, rows in itertools.groupby(
            self.rows, key=lambda r: Case(r.mode, r.batch_size, r.compile)
        ):
            cells = []
            for r in rows:
                frozen = ""
                if r.frozen:
                    frozen = f"{r.frozen['packed']} of {r.frozen['packed'] + r.frozen['plain']}"
                quartiles = f"{r.low:.3f} to {r.high:.3f}"
                cells.append(
                    [
                        *(r.block, r.path, f"{r.milliseconds:.2f}", f"{r.ratio:.3f}", quartiles),
                        *(f"{r.ratio_naive:.3f}", f"{r.memory / 1e6:.1f} MB"),
                        *(f"{r.memory_ratio:.3f}", f"{r.fast} of {r.places}", frozen),
                        "" if r.paper is None else f"{r.paper:.3f}",
                    ]
                )
            yield str(case), header, cells

    def summary(self) -> str:
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

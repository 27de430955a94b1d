"""Table 1: the formulas of a block's extra parameters, FLOPS and RTM, compared with what we count.

RTM is the paper's run-time memory (section 5.3): bytes for a block's weights and its outputs.
"""

# B batch, C channels

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import nn

from accuracy_booster.analysis import Complexity, complexity
from accuracy_booster.models import create_model
from accuracy_booster.reproduction.count_checks import DIFFERENT, EQUAL, FAILS, HOLDS, Check
from accuracy_booster.reproduction.printed_counts import TABLE_1, WEIGHTS, FormulaRow
from accuracy_booster.surgery import attach
from accuracy_booster.surgery.sites import Site

# (C, B) at which each formula is compared; the numbers at SHOWN are in the check
SIZES = [(c, b) for c in (64, 256, 2048) for b in (1, 32, 256)]
SHOWN = SIZES.index((256, 32))


def check_table_1() -> Iterator[Check]:
    """The checks of Table 1, and of the claim in section 5.3 that AB has the lowest RTM."""

    def measured(block: str, channels: int, batch: int) -> Complexity:
        with torch.device("meta"):
            model = nn.Sequential(nn.Identity())
            attach(model, block, [Site("0", channels, (7, 7))])
            return complexity(model, (channels, 7, 7), batch_size=batch)

    costs = {
        (row.block, c, b): measured(row.block, c, b).blocks[0] for row in TABLE_1 for c, b in SIZES
    }
    for row in TABLE_1:
        for column, formula, attribute, how in (
            ("Extra Params", row.parameters, "weights", WEIGHTS),
            ("Extra FLOPS", row.flops, "macs", "mac"),
            ("RTM", row.rtm, "rtm_paper", "the paper's outputs"),
            ("RTM", row.rtm, "rtm", "true outputs"),
        ):
            pairs = [
                (formula[1](c, b), getattr(costs[row.block, c, b], attribute)) for c, b in SIZES
            ]
            yield _formula(row, column, formula[0], how, pairs)
    yield from _lowest_rtm()


def _formula(
    row: FormulaRow, column: str, formula: str, how: str, pairs: list[tuple[int, int]]
) -> Check:
    """The check of one formula.

    Args:
        formula: its text.
        how: what is counted.
        pairs: (paper, ours) at each of `SIZES`.
    """
    shown, where = f"{pairs[SHOWN][1]:,}", f"at C = {SIZES[SHOWN][0]}, B = {SIZES[SHOWN][1]}"
    if row.more:
        result = HOLDS if all(ours > paper for paper, ours in pairs) else FAILS
    else:
        result = EQUAL if all(ours == paper for paper, ours in pairs) else DIFFERENT
    note = f"{pairs[SHOWN][0]:,} {where}" if result == DIFFERENT else ""
    if result == DIFFERENT and column == "RTM":
        note += "; the second layer of SE gives C outputs, not C/r"
    if not row.printed:
        note = "; ".join(filter(None, ("not in the table; from section 5", note)))
    paper = f"> {formula}" if row.more else formula
    return Check(1, row.label, column, paper, f"{shown} {where}", how, result, note)


def _lowest_rtm() -> Iterator[Check]:
    """Section 5.3: "the AB block has the lowest extra RTM", on ResNet-50."""
    size = (3, 224, 224)
    for attribute, how in (("rtm_paper", "the paper's outputs"), ("rtm", "true outputs")):
        for batch in (1, 256):
            totals = {}
            for row in TABLE_1:
                with torch.device("meta"):
                    network = create_model("resnet50v1", block=row.block)
                    blocks = complexity(network, size, batch_size=batch).blocks
                totals[row.label] = sum(getattr(block, attribute) for block in blocks)
            lowest = min(totals, key=lambda label: totals[label])
            yield Check(
                1,
                "all",
                f"RTM of ResNet-50, B = {batch}",
                "AB has the lowest",
                ", ".join(f"{label} {total:,}" for label, total in totals.items()),
                how,
                HOLDS if lowest == "AB" else FAILS,
                "" if lowest == "AB" else f"{lowest} has the lowest",
            )

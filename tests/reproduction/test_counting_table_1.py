"""Table 1 and the claim of section 5.3 beside what we count."""

from __future__ import annotations

import pytest
from support.counts import DIFFERENT, EQUAL, find


@pytest.mark.parametrize(
    ("row", "column", "paper", "ours", "results"),
    [
        ("AB", "Extra Params", "C", [256], [EQUAL]),
        ("AB", "Extra FLOPS", "C·B", [256 * 32], [EQUAL]),
        ("AB", "RTM", "4C(1 + B)", [4 * 256 * 33] * 2, [EQUAL] * 2),
        ("AB-Plus", "Extra Params", "C²", [256**2], [EQUAL]),
        ("AB-Plus", "Extra FLOPS", "C²·B", [256**2 * 32], [EQUAL]),
        ("AB-Plus", "RTM", "4C(C + B)", [4 * 256 * 288] * 2, [EQUAL] * 2),
        ("SE", "Extra Params", "2C² / r", [8_192], [EQUAL]),
        ("SE", "Extra FLOPS", "2C²·B / r", [8_192 * 32], [EQUAL]),
        ("SE", "RTM", "8C(C + B) / r", [36_864, 4 * (8_192 + 272 * 32)], [EQUAL, DIFFERENT]),
        ("CBAM", "Extra Params", "> 2C² / r", [8_192 + 98], ["holds"]),
        ("CBAM", "Extra FLOPS", "> 2C²·B / r", [32 * (2 * 8_192 + 98 * 49)], ["holds"]),
        (
            *("CBAM", "RTM", "> 8C(C + B) / r"),
            [4 * (8_290 + 32 * (2 * n + 49)) for n in (16 + 16, 16 + 256)],
            ["holds"] * 2,
        ),
    ],
)
def test_table_1(everything, row, column, paper, ours, results):
    """Shown at C = 256, B = 32: by the paper's outputs, then by the true ones."""
    checks = find(everything, 1, row, column)
    assert [check.paper for check in checks] == [paper] * len(ours)
    assert [check.ours for check in checks] == [f"{n:,} at C = 256, B = 32" for n in ours]
    assert [check.verdict for check in checks] == results
    assert all(("not in the table" in check.note) == (row == "AB-Plus") for check in checks)


def test_the_claim_on_memory_fails_for_large_batches_by_the_papers_formula(everything):
    """Section 5.3: AB has the lowest extra RTM."""
    expected = [
        (1, "the paper's outputs", "AB 120,832", "SE 10,067,328", "holds"),
        (256, "the paper's outputs", "AB 15,526,912", "SE 11,993,088", "fails"),
        (1, "true outputs", "AB 120,832", "SE ", "holds"),
        (256, "true outputs", "AB 15,526,912", "SE 26,492,928", "holds"),
    ]
    claims = [check for check in everything.checks if check.row == "all"]
    for check, (batch, how, ours, rival, result) in zip(claims, expected, strict=True):
        assert (check.column, check.convention) == (f"RTM of ResNet-50, B = {batch}", how)
        assert check.ours.startswith(f"{ours}, ")
        assert rival in check.ours
        assert (check.verdict, check.note) == (
            (result, "") if result == "holds" else (result, "SE has the lowest")
        )

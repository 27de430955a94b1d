"""The declared counts are those of the paper's text, where that is at hand."""

from __future__ import annotations

import pytest
from support.paper import numbers_of

from accuracy_booster.reproduction.printed_counts import COUNT_TABLES


@pytest.mark.parametrize("number", COUNT_TABLES)
def test_printed_counts_are_the_papers(shared, number):
    cells = [[cell.strip() for cell in row] for row in numbers_of(shared, number)]
    for row in COUNT_TABLES[number].rows:
        printed = [text for text in (row.params, row.flops, row.depth) if text]
        assert any(all(text in line for text in printed) for line in cells), (row.label, cells)

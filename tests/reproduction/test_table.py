"""Which rows of a table are compared."""

from __future__ import annotations

from support.detector_runs import TABLE_9

from accuracy_booster.reproduction import TABLES


def test_a_row_is_compared_in_its_own_number():
    found = {
        row.label: [other.label for other in TABLE_9.references_of(row)] for row in TABLE_9.rows
    }
    assert found["AB, AP50"] == ["no block, AP50", "SE, AP50"]
    assert found["SE, AP"] == ["no block, AP"]
    assert found["no block, AP"] == []


def test_references_are_those_of_the_same_network():
    labels = {
        row.label: [other.label for other in TABLES["5"].references_of(row)]
        for row in TABLES["5"].rows[:4]
    }
    both = ["no block", "SE"]
    assert labels == {"no block": [], "SE": ["no block"], "AB": both, "AB-Plus": both}
    table = TABLES["finetune"]
    frozen = next(row for row in table.rows if row.settings)
    assert [row.label for row in table.references_of(frozen)] == ["no block"]

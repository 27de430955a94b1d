"""In what the budgets differ."""

from __future__ import annotations

from accuracy_booster.reproduction import TABLES
from accuracy_booster.reproduction.budgets import BUDGETS
from accuracy_booster.reproduction.specs import spec_of


def test_budgets_differ_in_their_schedule_alone():
    table = TABLES["10"]
    paper, short, smoke = (spec_of(table, table.rows[2], b, 0).config for b in BUDGETS)
    assert paper.epochs == 200
    assert paper.schedule == "step"
    differing = {n for n in vars(paper) if getattr(paper, n) != getattr(short, n)}
    assert differing == {"epochs", "schedule"}
    assert smoke.data == "digits"
    assert smoke.epochs == 1

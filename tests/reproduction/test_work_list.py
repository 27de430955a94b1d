"""Runs that have a result are not made again."""

from __future__ import annotations

from support.runs import places, specs

from accuracy_booster.reproduction import work


def test_what_is_there_is_not_made_again(made, no_process):
    worked = work(specs(), places(made))
    assert (worked.there, worked.done) == (2, [])

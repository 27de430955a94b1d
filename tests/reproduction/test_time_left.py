"""Estimates of how long runs take."""

from __future__ import annotations

from dataclasses import replace

import pytest
from support.runs import TINY

import accuracy_booster as ab
from accuracy_booster.reproduction import Row, plan
from accuracy_booster.reproduction.record import Record
from accuracy_booster.reproduction.result_files import Records
from accuracy_booster.reproduction.specs import spec_of
from accuracy_booster.reproduction.time_left import hours_left, seconds_of


def test_times_are_those_of_similar_runs_that_have_ended():
    table = replace(TINY, data="cifar10")
    (none, boosted) = plan([table], "short", 1)
    more = next(iter(plan([table], "short", 2)))
    later = list(plan([table], "short", 2))[2]
    assert later.hash == none.hash
    epochs = [{"epoch": float(i + 1)} for i in range(10)]
    ended = Record(none, {"top1": 50.0, "top5": 90.0}, epochs, 1000.0)
    records = Records({ended.key: ended}, {})
    assert seconds_of(later, records) == 1000.0  # the same configuration
    assert seconds_of(boosted, records) == 1000.0  # the same network, ten epochs
    deeper = spec_of(table, Row("x", "resnet14", "none"), "short", 0)
    macs = {
        name: ab.complexity(ab.create_model(name), (3, 32, 32)).macs
        for name in ("resnet8", "resnet14")
    }
    ratio = macs["resnet14"] / macs["resnet8"]
    assert seconds_of(deeper, records) == pytest.approx(1000.0 * ratio)
    assert hours_left([boosted, later], records) == "about 0.6 h left"
    assert hours_left([], records) == "nothing is left"
    assert "unknown" in hours_left([more], Records({}, {}))

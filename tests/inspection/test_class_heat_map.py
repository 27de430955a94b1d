"""The heat map of classes, and the channels that separate them."""

from __future__ import annotations

from dataclasses import replace

from support.inspections import make_gate

from accuracy_booster.inspection.class_heat_map import heat_map, separating_channels


def test_the_heat_map_shows_the_class_and_channel_that_stand_out():
    gate = make_gate("a", 40, classes=35, images=700)
    means = gate.mean.expand(35, -1).clone()
    means[7, 33] += 2 * gate.spread[33]
    found = heat_map(replace(gate, class_means=means), [f"k{i}" for i in range(35)])
    assert (len(found["classes"]), len(found["channels"])) == (30, 30)
    assert ["k7", "33 (+2.0)"] in [row[:2] for row in found["rows"]]
    assert found["limit"] == 2.0


def test_channels_that_separate_classes_come_first():
    gate = make_gate("a", 16)
    rows = separating_channels(gate, [f"k{i}" for i in range(10)])
    best = int(gate.class_share.argmax())
    high = int(gate.class_means[:, best].argmax())
    assert rows[0][0] == str(best)
    assert rows[0][2].startswith(f"k{high} (")
    assert len(rows) == 5

"""The result of `ab.inspect`: as JSON, and the gates that alone do nothing."""

# N images, C channels, K classes

from __future__ import annotations

import json
from dataclasses import replace

from support.inspected_runs import SITES

import accuracy_booster as ab
from accuracy_booster.inspection.opened_networks import inputs_of
from accuracy_booster.inspection.sentences import summary
from accuracy_booster.inspection.variant_accuracies import measure_variants
from accuracy_booster.inspection.variants import frozen
from accuracy_booster.training.opening_to_measure import open_measured


def test_everything_is_told_as_json(found):
    told = found.to_dict()
    again = json.loads(json.dumps(told, allow_nan=False))
    assert again == told
    assert again["top1"] == found.top1
    assert [gate["site"] for gate in again["gates"]] == SITES
    assert again["frozen"][SITES[0]]["low"] == found.frozen[SITES[0]].low
    assert len(again["zeroed"]) == 9
    assert again["images"] == sum(again["gates"][0]["histogram"]) / again["gates"][0]["channels"]


def test_gates_that_alone_do_nothing_are_frozen_together(run):
    one = ab.inspect(run, images=40, percents=())
    assert list(one.idle) == [site for site, found in one.frozen.items() if not found.tells]
    assert len(one.idle) > 1  # 40 images tell little
    means, opened = {s: g.mean for s, g in one.gates.items()}, open_measured(run)
    few = inputs_of(opened, 40)
    _, _, outcomes = measure_variants(opened.network, few, {"x": frozen(means, one.idle)})
    assert one.idle_frozen == outcomes["x"]
    assert one.to_dict()["idle"] == list(one.idle)
    needed = replace(one.all_frozen, low=1.0, high=2.0)
    part = replace(one, frozen={**one.frozen, "more": needed})
    assert any("frozen together, change it by" in line for line in summary(part))

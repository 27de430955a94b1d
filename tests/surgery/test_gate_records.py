"""A record of gates rebuilds the same gates, and a damaged or unfitting one changes nothing."""

# N batch, C channels, H W space

from __future__ import annotations

import copy
import json

import pytest
import timm
import torch
from support.boosting import SITES, images, net, trained
from torch import nn

import accuracy_booster as ab
from accuracy_booster.surgery import attached


@pytest.mark.parametrize("block", ["ab", "cbam", "ge_theta_plus", "gap | dense | sigmoid"])
@pytest.mark.parametrize("init", ["paper", "identity"])
def test_a_record_through_json_rebuilds_the_gates(block, init):
    model = trained(net(), block, init=init)
    record = json.loads(json.dumps(ab.gate_record(model)))
    rebuilt = ab.rebuild_gates(net(), record).eval()
    assert list(attached(rebuilt)) == SITES
    rebuilt.load_state_dict(model.state_dict())
    x = images()
    assert torch.equal(rebuilt(x), model.eval()(x))


def test_several_blocks_and_a_wrapper():
    model = ab.boost(net(), "ab", where=[SITES[0]])
    ab.boost(model, "se", where=SITES[1:])
    record = ab.gate_record(nn.DataParallel(model))
    rebuilt = ab.rebuild_gates(net(), record)
    assert {n: str(g.recipe) for n, g in attached(rebuilt).items()} == {
        n: str(g.recipe) for n, g in attached(model).items()
    }


def test_attention_that_was_replaced_is_replaced_again():
    def make() -> nn.Module:
        return timm.create_model("test_efficientnet", num_classes=3)

    model = ab.boost(make(), "se", where="attention")
    record = ab.gate_record(model)
    assert record["replaced"]
    rebuilt = ab.rebuild_gates(make(), record)
    assert rebuilt.state_dict().keys() == model.state_dict().keys()


def test_a_record_that_does_not_fit_changes_nothing():
    record = ab.gate_record(ab.boost(net(), "ab"))
    other = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4))
    before = copy.deepcopy(other.state_dict())
    with pytest.raises(ValueError, match=r"do not fit this Sequential.*unknown module"):
        ab.rebuild_gates(other, record)
    assert str(other.state_dict()) == str(before)
    assert not attached(other)
    with pytest.raises(ValueError, match="has gates already"):
        ab.rebuild_gates(ab.boost(net(), "ab"), record)
    with pytest.raises(ValueError, match="no gates to record"):
        ab.gate_record(net())


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda r: r.pop("sites"), r"no 'sites'.*what ab\.gate_record\(model\) returned"),
        (lambda r: r.update(sites=3), "damaged"),
        (lambda r: r["sites"][0].update(channels=0), "channels=0"),
        (lambda r: r["sites"][0].update(recipe="other"), "damaged: 'other'"),
    ],
)
def test_a_damaged_record_is_refused(damage, message):
    record = copy.deepcopy(ab.gate_record(ab.boost(net(), "ab")))
    damage(record)
    with pytest.raises(ValueError, match=message):
        ab.rebuild_gates(net(), record)
    with pytest.raises(ValueError, match=r"no record of gates.*and not a state dict"):
        ab.rebuild_gates(net(), net().state_dict())
    with pytest.raises(ValueError, match="a dict, not str"):
        ab.rebuild_gates(net(), "ab")

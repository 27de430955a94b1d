"""mmengine's `efficient_conv_bn_eval` keeps gates, and goes on without them as it did."""

from __future__ import annotations

import pytest
import torch
from support.halved_networks import boosted, halved, image, network, same

import accuracy_booster as ab

efficient = pytest.importorskip("mmengine.model.efficient_conv_bn_eval", exc_type=ImportError)
pytestmark = pytest.mark.filterwarnings("ignore")


@pytest.mark.parametrize("names", [("1.bn2", "2.bn2"), ("1.conv2", "2.conv2"), ("1.bn2",)])
@torch.no_grad()
def test_gates_act_once(names):
    model = boosted(where=list(names))
    efficient.turn_on_efficient_conv_bn_eval(model, ["1", "2"])
    same(model(image()), halved(names))
    base = network()
    efficient.turn_on_efficient_conv_bn_eval(base, ["1", "2"])
    same(base(image()), network()(image()))


@torch.no_grad()
def test_gates_on_convolutions_act_in_training_mode():
    model, other = (boosted(where=["1.conv2", "2.conv2"]).train() for _ in range(2))
    efficient.turn_on_efficient_conv_bn_eval(model, ["1", "2"])
    same(model(image()), other(image()))


@torch.no_grad()
def test_a_gate_that_comes_later():
    model = network()
    efficient.turn_on_efficient_conv_bn_eval(model, ["1", "2"])
    record = ab.gate_record(boosted())
    ab.rebuild_gates(model, record)
    for parameter in ab.added_parameters(model):
        parameter.zero_()
    same(model(image()), halved())


def test_it_still_computes_from_the_tensors_without_gates(monkeypatch):
    boosted()
    model = network()
    efficient.turn_on_efficient_conv_bn_eval(model, ["1", "2"])
    monkeypatch.setattr(model[1].bn2, "forward", lambda x: pytest.fail("it was called"))
    model(image())

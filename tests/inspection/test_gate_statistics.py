"""`Gates`: a mapping by site, and the channels that tell classes apart."""

# N images, C channels, K classes, H W space

from __future__ import annotations

import pytest
import torch
from support.observed_networks import gathered, pairs, result

import accuracy_booster as ab
from accuracy_booster.inspection.gate_statistics import Gates


def test_classes_that_tell_channels_apart(stored):
    p, labels, scale = stored
    gate = result(gathered(p, labels, scale, torch.arange(len(p)), 50))
    (found,) = gate.separating(3, 0, most=1)
    one, other = (float(p[labels == k, 4].mean()) for k in (3, 0))
    assert (found.channel, found.one, found.other) == (4, *map(pytest.approx, (one, other)))
    spread = float(p[:, 4].std(correction=0))
    assert found.distance == pytest.approx((one - other) / spread)
    names = tuple("abcde")
    gates = Gates({"x": gate, "y": gate}, network="n", images=len(p), classes=names)
    assert [s.channel for s in gates.separating("d", "a", most=2)] == [4, 4]
    with pytest.raises(ValueError, match=r"unknown class 'f'; known: a, b, c, d, e"):
        gates.separating("f", 0)
    with pytest.raises(ValueError, match="class 4 has no images"):
        gate.separating(4, 0)


def test_gates_are_a_mapping(net):
    gates = ab.gates(net, pairs())
    assert "nowhere" not in gates
    assert "" not in gates
    assert gates.get("nowhere") is None
    with pytest.raises(KeyError, match="unknown layer 'nowhere'"):
        gates["nowhere"]
    with pytest.raises(ValueError, match="unknown layer 'nowhere'"):
        gates.find("nowhere")
    with pytest.raises(ValueError, match="loader=None cannot be iterated"):
        ab.gates(net, None)

"""What a network remembers of being boosted, fused or pruned."""

import copy

import pytest
from torch import nn

from accuracy_booster.surgery.state import BoostState, state_of, update_state


def test_asking_what_a_network_remembers_changes_nothing():
    net = nn.Conv2d(3, 8, 1)
    before = dict(net.__dict__)
    assert state_of(net) == BoostState(None, None, None)
    assert net.__dict__ == before


def test_a_change_leaves_the_other_fields_alone_and_goes_along_with_a_copy():
    net = nn.Conv2d(3, 8, 1)
    update_state(net, base_fingerprints={"weight": "1"})
    update_state(net, pruning="report")
    copied = copy.deepcopy(net)
    update_state(copied, pruning=None)
    assert state_of(copied) == BoostState({"weight": "1"})
    assert state_of(net) == BoostState({"weight": "1"}, pruning="report")
    assert set(net.state_dict()) == {"weight", "bias"}


def test_a_network_that_remembers_nothing_again_keeps_no_trace():
    net = nn.Conv2d(3, 8, 1)
    before = set(net.__dict__)
    update_state(net, fast_path="report")
    update_state(net, fast_path=None)
    assert set(net.__dict__) == before


def test_an_unknown_field_is_refused():
    with pytest.raises(TypeError, match="no_field"):
        update_state(nn.Conv2d(3, 8, 1), no_field=1)

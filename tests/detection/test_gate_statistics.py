"""Statistics of new gates are exact."""

from __future__ import annotations

import copy

import pytest
import torch
from support.detector_models import (
    QUIET,
    SMALL,
    TINY,
    images,
    spread_statistics,
    tiny,
)

from accuracy_booster.detection import estimate_gate_norms, faster_rcnn
from accuracy_booster.detection.norms import batch_norms, gates_norms
from accuracy_booster.surgery import attached

pytestmark = QUIET


def means_at(network, norms, batch):
    """What each gate's norm gets, by a hook: [N, C]."""
    found = {}
    hooks = [
        norm.register_forward_pre_hook(lambda m, args, n=n: found.__setitem__(n, args[0]))
        for n, norm in norms.items()
    ]
    with torch.no_grad():
        network.eval()(batch)
    for hook in hooks:
        hook.remove()
    return found


def test_statistics_of_identity_gates_are_exact_after_one_pass():
    model = tiny(init="identity", norms="frozen")
    data = images(6)
    spread_statistics(model.backbone)
    for gate in attached(model).values():
        for norm in batch_norms(gate).values():
            norm.weight.data.zero_()
    flags = {name: m.training for name, m in model.train().named_modules()}
    assert estimate_gate_norms(model, [data[:1], data[1:3], data[3:]]) == 2
    assert flags == {name: m.training for name, m in model.named_modules()}
    state = copy.deepcopy(gates_norms(model))
    assert estimate_gate_norms(model, iter([data])) == 1  # nothing moves any more
    for name, values in means_at(model, gates_norms(model), data).items():
        var, mean = torch.var_mean(values, 0)
        for norm in (gates_norms(model)[name], state[name]):
            torch.testing.assert_close(norm.running_mean, mean)
            torch.testing.assert_close(norm.running_var, var, rtol=1e-4, atol=1e-7)
    with pytest.raises(ValueError, match="two images"):
        estimate_gate_norms(model, [data[:1]])


def test_statistics_of_other_gates_settle_front_to_back():
    model = tiny(norms="frozen", head="c4")
    spread_statistics(model)
    bytes_ = [(image * 255).round().byte() for image in images(6)]
    assert 1 < estimate_gate_norms(model, [bytes_]) <= 6
    assert estimate_gate_norms(model, [bytes_]) == 1
    norms = gates_norms(model.backbone)
    for name, values in means_at(model, norms, [image / 255 for image in bytes_]).items():
        var, mean = torch.var_mean(values, 0)
        assert ((norms[name].running_mean - mean).abs() < 0.02 * (var + 1e-5).sqrt()).all()
    assert estimate_gate_norms(faster_rcnn(TINY, **SMALL), [images()]) == 0

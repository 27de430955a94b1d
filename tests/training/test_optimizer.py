"""Learning rates and weight decays of gates, norms and the other parameters."""

from __future__ import annotations

import accuracy_booster as ab
from accuracy_booster.training import (
    resolve,
)
from accuracy_booster.training.learning_rate import set_rates
from accuracy_booster.training.optimizer import make_optimizer


def test_weight_decay_and_rates_of_gates_and_norms():
    config = resolve(
        *("resnet8",),
        **{"lr": 0.2, "gate_lr": 0.3, "weight_decay": 1e-4},
        **{"norm_weight_decay": 0.0, "gate_weight_decay": 5e-4},
    )
    network = ab.create_model("resnet8", block="ab", num_classes=10)
    optimizer = make_optimizer(network, config)
    found = {
        id(p): (g["lr0"], g["weight_decay"]) for g in optimizer.param_groups for p in g["params"]
    }
    kinds = set()
    for name, parameter in network.named_parameters():
        if ".recalibrate." in name:
            expected = (0.3, 5e-4)
        elif parameter.ndim < 2:
            expected = (0.2, 0.0)
        else:
            expected = (0.2, 1e-4)
        kinds.add(expected)
        assert found.pop(id(parameter)) == expected, name
    assert not found
    assert len(kinds) == 3
    set_rates(optimizer, 0.5)
    assert {g["lr"] for g in optimizer.param_groups} == {0.1, 0.15}
    alike = make_optimizer(network, resolve("resnet8"))
    assert len(alike.param_groups) == 1

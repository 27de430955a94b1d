"""The rate of every epoch and step, against the rule written out."""

import math

import pytest
from torch import nn

from accuracy_booster.training import (
    resolve,
)
from accuracy_booster.training.learning_rate import rate_factor, set_rates
from accuracy_booster.training.optimizer import make_optimizer


def rates(**options):
    c = resolve(options.pop("model", "resnet56"), data="cifar100", **options)
    optimizer = make_optimizer(nn.Linear(1, 1), c)
    found = []
    for epoch in range(c.epochs):  # the rule: a rate is a function of the epoch, without a state
        set_rates(optimizer, rate_factor(c, epoch))
        found.append(optimizer.param_groups[0]["lr"])
    return found


def steps(changes, epochs=200):
    """{first epoch (from 0): rate} -> the rate of each epoch."""
    out = []
    for epoch in range(epochs):
        out.append(changes[max(e for e in changes if e <= epoch)])
    return out


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({}, steps({0: 0.1, 100: 0.01, 150: 0.001})),
        ({"model": "resnet110"}, steps({0: 0.01, 1: 0.1, 100: 0.01, 150: 0.001})),
        ({"model": "wrn22_10"}, steps({0: 0.1, 60: 0.02, 120: 0.004, 160: 0.0008})),
        ({"epochs": 160}, steps({0: 0.1, 80: 0.01, 120: 0.001}, 160)),
        ({"epochs": 5}, [0.1, 0.1, 0.1, 0.01, 0.001]),
        ({"epochs": 4, "warmup_epochs": 9}, [0.01] * 4),
        (
            {"epochs": 8, "schedule": "cosine"},
            [0.05 * (1 + math.cos(math.pi * e / 8)) for e in range(8)],
        ),
    ],
)
def test_schedule(options, expected):
    assert rates(**options) == pytest.approx(expected)


def test_linear_warm_up_goes_up_step_by_step():
    config = resolve(
        *("resnet56",),
        **{"data": "cifar10", "epochs": 10, "lr": 0.4, "warmup": "linear", "warmup_epochs": 4},
        **{"warmup_lr": 0.1, "schedule": "cosine"},
    )
    for epoch in range(4):
        for done in (0.0, 0.25, 0.9):
            expected = 0.1 + 0.3 * (epoch + done) / 4
            assert 0.4 * rate_factor(config, epoch, done) == pytest.approx(expected)
    assert rate_factor(config, 4, 0.0) == 1
    assert rate_factor(config, 3, 1.0) == pytest.approx(1)
    assert rate_factor(config, 7, 0.9) == pytest.approx(0.5)

"""The preset that fits a network, and what is given over it."""

import pytest

from accuracy_booster.training.presets import resolve


@pytest.mark.parametrize(
    ("model", "data", "expected"),
    [
        ("resnet56", "cifar100", ("cifar_resnet", 200, 128, 0.1, 1e-4, False, 0)),
        ("resnet110", "cifar10", ("cifar_resnet_deep", 200, 128, 0.1, 1e-4, False, 1)),
        ("resnet164v1", "cifar10", ("cifar_resnet_deep", 200, 128, 0.1, 1e-4, False, 1)),
        ("wrn22_10", "cifar100", ("cifar_wrn", 200, 128, 0.1, 5e-4, True, 0)),
        ("resnet20", "digits", ("digits", None, 64, 0.1, 1e-4, False, 0)),
    ],
)
def test_presets(model, data, expected):
    c = resolve(model, data=data)
    got = (c.preset, c.epochs, c.batch_size, c.lr, c.weight_decay, c.nesterov, c.warmup_epochs)
    assert [g for g, e in zip(got, expected, strict=True) if e is not None] == [
        e for e in expected if e is not None
    ]
    changed = resolve(model, data=data, epochs=7, lr=0.3)
    assert (changed.epochs, changed.lr, changed.preset) == (7, 0.3, c.preset)
    named = resolve(model, data=data, preset="cifar_wrn")
    assert named.weight_decay == 5e-4

"""MosaicML composer's own surgery on boosted networks, where composer is installed.

`support/composer_places.py` has stand-ins for what it does; these are the real functions.
"""

from __future__ import annotations

import pytest
import torch
from support.halved_networks import Block, boosted, halved, image, network, same
from torch import nn

import accuracy_booster as ab

functional = pytest.importorskip("composer.functional", exc_type=ImportError)

SURGERY = {
    "ghost_batchnorm": {"ghost_batch_size": 2},
    "blurpool": {"min_channels": 0},
    "squeeze_excite": {"min_channels": 8, "latent_channels": 4},
    "factorization": {"min_channels": 4, "latent_channels": 3},
    "channels_last": {},
    "weight_standardization": {},
    "low_precision_groupnorm": {},
}


@pytest.mark.parametrize("name", SURGERY)
@torch.no_grad()
def test_algorithms_keep_gates(name):
    networks = []
    for model in (network(), boosted()):
        torch.manual_seed(5)
        getattr(functional, f"apply_{name}")(model, **SURGERY[name])
        networks.append(model.eval())
    base, model = networks
    for block in ("1.bn2", "2.bn2"):
        base.get_submodule(block).register_forward_hook(lambda m, args, y: y / 2)
    same(model(image()), base(image()))
    assert len(ab.surgery.attached(model)) == 2


def test_the_moving_average_and_frozen_layers():
    from composer.algorithms.ema.ema import EMAParameters
    from composer.algorithms.layer_freezing.layer_freezing import freeze_layers

    model = boosted()
    average = EMAParameters(model)
    assert sum(ab.surgery.ATTRIBUTE in name for name in average.named_parameters_dict) == 6
    assert sum(ab.surgery.ATTRIBUTE in name for name in average.named_buffers_dict) == 6
    freeze_layers(model, torch.optim.SGD(model.parameters(), lr=0.1), 1.0, 0.0, 1.0)
    same(model(image()), halved())


@torch.no_grad()
def test_classes_of_modules_are_replaced():
    from composer.utils.module_surgery import replace_module_classes

    networks = (network(), boosted())
    for model in networks:
        replace_module_classes(model, {nn.BatchNorm2d: lambda norm, i: nn.GroupNorm(2, 8)})
        assert isinstance(model[1], Block)
    base, model = networks
    for block in (base[1], base[2]):
        block.bn2.register_forward_hook(lambda m, args, y: y / 2)
    same(model(image()), base(image()))

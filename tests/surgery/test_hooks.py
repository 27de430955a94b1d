"""Hooks of other people are told from the hook by which owners put gates back."""

import torch
from torch import nn

import accuracy_booster as ab
from accuracy_booster.surgery.hooks import is_hooked, is_read


def network():
    model = nn.Sequential(nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4))
    return ab.boost(model, "ab", where=["1"], example=torch.zeros(1, 3, 4, 4))


def test_the_packages_own_hook_does_not_count():
    model = network()
    assert model._forward_pre_hooks
    assert not is_hooked(model)
    assert not is_read(*model.modules())


def test_each_kind_of_hook_counts():
    for register in (
        lambda m: m.register_forward_hook(lambda *_: None),
        lambda m: m.register_forward_pre_hook(lambda *_: None),
        lambda m: m.register_full_backward_hook(lambda *_: None),
        lambda m: m.register_full_backward_pre_hook(lambda *_: None),
    ):
        model = network()
        handle = register(model)
        assert is_hooked(model)
        assert is_read(model[0], model)
        assert not is_hooked(model[1])
        handle.remove()
        assert not is_hooked(model)


def test_a_hook_on_all_modules_reads_each():
    model = network()
    handle = nn.modules.module.register_module_forward_hook(lambda *_: None)
    try:
        assert is_read(model[1])
        assert not is_hooked(model[1])
    finally:
        handle.remove()
    assert not is_read(model[1])

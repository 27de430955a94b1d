"""Freezing norms one by one warns of the gates inside; freezing a whole network does not."""

# Gates are forced to p = 0.5, so a gate that is lost or applied twice changes the output.

import warnings

import pytest
from torch import nn


def freeze_each_norm(model):
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.eval()
            module.requires_grad_(False)


def test_the_loop_that_freezes_norms_warns_of_the_gates(resnet):
    model, _, _ = resnet
    model.train()
    with pytest.warns(UserWarning, match=r"gate.*frozen.*ab\.freeze_norms\(model\)"):
        freeze_each_norm(model)


def test_freezing_the_whole_network_is_no_surprise(resnet):
    model, _, _ = resnet
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        model.train()
        model.eval()
        model.requires_grad_(False)
        model.requires_grad_(True)

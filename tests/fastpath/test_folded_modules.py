"""Folded networks on maps with 0 to 3 dimensions of space."""

from __future__ import annotations

import pytest
import torch
from support.ranks import (
    Block,
    Last,
    boosted,
)
from torch import nn

import accuracy_booster as ab

pytestmark = pytest.mark.filterwarnings("ignore:the batch norm of the gate")


@pytest.fixture(autouse=True)
def _seed():
    torch.manual_seed(0)


@pytest.mark.parametrize("recipe", ["ab", "se", "eca", "ab_g2"])
@pytest.mark.parametrize("kernel", [1, 3])
@pytest.mark.parametrize("kind", [Block, Last])
@pytest.mark.parametrize("dims", [0, 1, 3])
def test_folded_networks_compute_the_same(dims, kind, kernel, recipe):
    net, x = boosted(dims, kernel, recipe, kind, bias=True)
    net.eval()
    folded = ab.fold(net, example=x, verify=True)
    assert ab.fast_path(folded).taken == 2, str(ab.fast_path(folded))
    assert not [m for m in folded.modules() if isinstance(m, nn.modules.batchnorm._BatchNorm)]
    torch.testing.assert_close(folded(x), net(x), rtol=1e-9, atol=1e-9)
    grads = []
    for model in (net, folded):  # of the input, for saliency maps
        given = x.clone().requires_grad_()
        model(given).square().sum().backward()
        grads.append(given.grad)
    torch.testing.assert_close(grads[1], grads[0], rtol=1e-8, atol=1e-8)


@pytest.mark.parametrize("form", ["input", "output"])
@pytest.mark.parametrize("dims", [1, 3])
def test_both_forms_of_a_folded_gate(monkeypatch, dims, form):
    from accuracy_booster.fastpath import folding

    monkeypatch.setattr(folding, "choose_form", lambda *_: form)
    net, x = boosted(dims, 3, "ab_plus", bias=True)
    folded = ab.fold(net.eval(), example=x)
    assert f"form={form}" in str(folded)
    torch.testing.assert_close(folded(x), net(x), rtol=1e-9, atol=1e-9)

"""Attention modules are replaced by gates and put back as they were."""

# N batch, C channels, H W space

from __future__ import annotations

import copy

import pytest
import timm
import torch
from support.boosting import (
    MARK,
    images,
    named,
    snapshot,
    with_attention,
)
from support.gates import stir

import accuracy_booster as ab
from accuracy_booster.surgery import attached


@pytest.mark.parametrize("kind", ["se", "eca", "cbam", "ese", "ecam", "gc"])
def test_attention_is_replaced_and_brought_back(kind):
    model, x = with_attention(kind).eval(), images(2, 64)
    with torch.no_grad():
        for name, value in named(model):
            if ".se." in name:
                value.normal_()  # trained
    modules = {n: m for n, m in model.named_modules() if n.endswith(".se")}
    base, expected = snapshot(model), model(x)
    assert len(modules) == 4
    ab.boost(model, "ab", example=x[:1], where="attention")
    assert list(attached(model)) == list(modules)
    kept = [key for key in model.state_dict() if MARK not in key]
    assert kept == [key for key in base["tensors"] if ".se." not in key]
    assert not torch.allclose(stir(model)(x), expected, rtol=1e-3)
    with ab.disabled(model):  # no attention at all
        plain = copy.deepcopy(model)
        torch.testing.assert_close(model(x), plain(x))
    again = copy.deepcopy(model)
    ab.unboost(model)
    assert {n: m for n, m in model.named_modules() if n.endswith(".se")} == modules
    assert torch.equal(model(x), expected)
    assert list(model.state_dict()) == list(base["tensors"])
    assert torch.equal(ab.unboost(again)(x), expected)


def test_replaced_attention_follows_dtype_and_training():
    model, x = with_attention("se").eval(), images(2, 32)
    expected = model(x)
    ab.boost(model, "ab", example=x[:1], where="attention")
    model.double().train()
    ab.unboost(model)
    assert {p.dtype for p in model.parameters()} == {torch.float64}
    assert all(m.training for m in model.modules())
    torch.testing.assert_close(model.eval()(x.double()).float(), expected, rtol=1e-3, atol=1e-4)


def test_disabled_brings_replaced_attention_back_for_a_while():
    model = timm.create_model("seresnet18", num_classes=3, zero_init_last=False).double().eval()
    x = torch.randn(2, 3, 64, 64, dtype=torch.float64)
    y = model(x)
    ab.boost(model, "ab", example=x[:1], where="attention")
    assert not torch.equal(model(x), y)
    with ab.disabled(model):
        assert torch.equal(model(x), y)

"""A plan changes nothing, and refuses and warns as boosting does."""

# N batch, C channels, H W space

from __future__ import annotations

import re
import warnings

import pytest
import timm
import torch
from support.boosting import (
    EXAMPLE,
    SIDE,
    assert_same_state,
    images,
    net,
    snapshot,
    with_attention,
)
from support.sites import (
    BlockOfRank,
)
from torch import nn

import accuracy_booster as ab


@pytest.mark.parametrize("where", ["residual", "conv", ["norm"], re.compile("bn1$")])
def test_plan_changes_nothing(where):
    model = net().train()
    model(images()).sum().backward()
    model.layers[0].bn2.eval()
    model.stem.weight.requires_grad_(False)
    before = snapshot(model)
    ab.plan(model, "ab", example=EXAMPLE, where=where)
    assert_same_state(snapshot(model), before)
    with pytest.raises(ValueError):
        ab.plan(model, "ab", example=torch.zeros(1, 4, SIDE, SIDE), where=where)
    assert_same_state(snapshot(model), before)


@pytest.mark.parametrize("recipe", ["design_e", "ge_theta_minus", "gather(2) | sigmoid"])
def test_identity_is_refused_without_parameters(recipe):
    model = net()
    before = snapshot(model)
    with pytest.raises(ValueError, match=r"no parameters.*paper"):
        ab.boost(model, recipe, example=EXAMPLE, init="identity")
    assert_same_state(snapshot(model), before)


def test_identity_is_refused_in_place_of_attention():
    model = with_attention("se")
    before = snapshot(model)
    with pytest.raises(ValueError, match=r"identity.*attention.*paper"):
        ab.boost(model, "ab", example=EXAMPLE, where="attention", init="identity")
    with pytest.raises(ValueError, match=r"init='identiti'"):
        ab.boost(model, "ab", example=EXAMPLE, init="identiti")
    assert_same_state(snapshot(model), before)


def test_present_attention_is_a_warning():
    model = with_attention("se")
    with pytest.warns(UserWarning, match=r"4 attention modules.*where='attention'") as caught:
        ab.boost(model, "ab", example=images(1, 32))
    assert len(caught) == 1
    assert caught[0].filename == __file__
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        ab.boost(net(), "ab", example=EXAMPLE)
        ab.boost(with_attention("se"), "ab", example=images(1, 32), where="attention")


def test_a_branch_that_starts_at_zero_is_a_warning_with_identity():
    model = timm.create_model("resnet10t", num_classes=3)  # zero_init_last
    with pytest.warns(UserWarning, match="4 of 4 branches end in a norm whose weight is zero"):
        ab.plan(model, "ab", example=torch.zeros(1, 3, 64, 64), init="identity")


def test_a_recipe_that_does_not_fit_a_rank_names_the_site():
    with pytest.raises(ValueError, match=r"at '0\.b\.4': .*"):
        ab.plan(nn.Sequential(BlockOfRank(0)), "cbam")

"""Saves hold every kind of gate, say when the base was trained, and need a directory."""

# N batch, C channels, H W space

from __future__ import annotations

import copy
import warnings

import pytest
import timm
import torch
from support.boosting import (
    EXAMPLE,
    gated,
    hook_count,
    images,
    net,
    trained,
    with_attention,
)
from support.gates import force, stir
from support.networks import randomise
from support.sites import (
    BlockOfRank,
    C,
)
from torch import nn

import accuracy_booster as ab
from accuracy_booster.surgery import attached


def test_a_missing_folder_is_refused(tmp_path):
    with pytest.raises(ValueError, match="no saved gates"):
        ab.load(net(), tmp_path / "nowhere")
    with pytest.raises(ValueError, match="no gates to save"):
        ab.save(net(), tmp_path)
    (tmp_path / "file").write_text("")
    with pytest.raises(ValueError, match="cannot write"):
        ab.save(gated(), tmp_path / "file" / "below")
    model = gated()
    ab.save(model, tmp_path)
    with pytest.raises(ValueError, match=r"gates already.*unboost"):
        ab.load(model, tmp_path)


def test_a_trained_base_is_told_and_stored_in_full(tmp_path):
    base, x = net(), images()
    model = trained(base)
    with torch.no_grad():
        model.head.weight.add_(1)
    with pytest.warns(UserWarning, match=r"'head.weight'.*full=True"):
        ab.save(model, tmp_path / "part")
    with pytest.warns(UserWarning, match=r"base network was trained.*full=True"):
        ab.load(copy.deepcopy(base), tmp_path / "part")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        ab.save(model, tmp_path / "full", full=True)
        fresh = ab.load(copy.deepcopy(base), tmp_path / "full").eval()
        other = ab.load(net(), tmp_path / "full").eval()
    assert torch.equal(fresh(x), model(x))
    assert torch.equal(other(x), model(x))


@pytest.mark.filterwarnings("error")
def test_several_boosts_with_different_recipes_are_saved(tmp_path):
    base, x = net(), images()
    model = ab.boost(copy.deepcopy(base), "ab", example=EXAMPLE)
    ab.boost(model, "se", example=EXAMPLE, where=["norm"])
    ab.boost(model, "ge_theta_plus", example=EXAMPLE, where=["layers.0.bn1"])
    stir(model).eval()
    ab.save(model, tmp_path)
    fresh = ab.load(copy.deepcopy(base), tmp_path).eval()
    assert torch.equal(fresh(x), model(x))
    assert {n: str(g.recipe) for n, g in attached(fresh).items()} == {
        n: str(g.recipe) for n, g in attached(model).items()
    }
    assert ab.unboost(fresh) is fresh
    assert hook_count(fresh) == 0


@pytest.mark.filterwarnings("error")
def test_replaced_attention_is_saved_and_loaded(tmp_path):
    base, x = with_attention("se").eval(), images(2, 32)
    expected = base(x)
    model = stir(ab.boost(copy.deepcopy(base), "ab", example=x[:1], where="attention")).eval()
    ab.save(model, tmp_path)
    fresh = ab.load(copy.deepcopy(base), tmp_path).eval()
    assert torch.equal(fresh(x), model(x))
    assert list(fresh.state_dict()) == list(model.state_dict())
    assert torch.equal(ab.unboost(fresh)(x), expected)


@pytest.mark.filterwarnings("error")
def test_gates_in_nhwc_and_16_bits_are_saved_and_loaded(tmp_path):
    base = timm.create_model("convnext_tiny", depths=(1, 1, 1, 1), dims=(8, 8, 16, 16))
    base, x = randomise(base).bfloat16().eval(), images(2, 32).bfloat16()
    model = stir(ab.boost(copy.deepcopy(base), "ab", example=x[:1])).eval()
    assert {gate.layout for gate in attached(model).values()} == {"NHWC"}
    ab.save(model, tmp_path)
    assert torch.equal(ab.load(copy.deepcopy(base), tmp_path).eval()(x), model(x))


@pytest.mark.parametrize("size", [(), (9,), (4, 5, 6)], ids=str)
def test_gates_of_every_rank_are_saved_and_loaded(size, tmp_path):
    x = torch.randn(2, C, *size)
    base = nn.Sequential(BlockOfRank(len(size)))
    boosted = force(ab.boost(copy.deepcopy(base), example=x), 0.3).eval()
    ab.save(boosted, tmp_path)
    torch.testing.assert_close(ab.load(base, tmp_path).eval()(x), boosted(x))


def test_gates_are_not_saved_into_the_directory_of_a_run(tmp_path):
    for name in ("config.yaml", "run.json"):
        (tmp_path / name).write_text("")
    with pytest.raises(ValueError, match=r"holds a run.*save to another directory"):
        ab.save(gated(), tmp_path)
    assert len(list(tmp_path.iterdir())) == 2

"""Recipes as data: what fits together, JSON, and what a gate says of itself."""

from __future__ import annotations

import copy
import dataclasses
import json
import pickle

import pytest
import torch
from support.blocks import (
    NAMES,
    block,
    kind_counts,
    randomise,
)
from support.hostile import (
    nested,
)
from support.recipes import (
    TEXTS,
    chain,
)

from accuracy_booster.blocks import (
    TABLE,
    Recipe,
    recipe,
)


@pytest.mark.parametrize("text", [*NAMES, *TEXTS])
def test_dict_and_json_round_trip(text):
    parsed = recipe(text)
    plain = parsed.to_dict()
    assert Recipe.from_dict(plain) == parsed
    assert json.loads(parsed.to_json()) == plain  # plain values only
    again = Recipe.from_json(parsed.to_json())
    assert again == parsed
    assert hash(again) == hash(parsed)
    assert str(again) == str(parsed)


def test_dict_is_a_copy():
    parsed = recipe("gap | bottleneck(8) | sigmoid")
    plain = parsed.to_dict()
    plain["gates"][0]["weigh"][0]["reduction"] = 2
    assert parsed == recipe("gap | bottleneck(8) | sigmoid")


def test_a_recipe_is_frozen_hashable_and_copies():
    parsed = recipe("cbam")
    with pytest.raises(dataclasses.FrozenInstanceError):
        parsed.gates = ()
    with pytest.raises(dataclasses.FrozenInstanceError):
        parsed.gates[0].weigh = ()
    with pytest.raises(dataclasses.FrozenInstanceError):
        parsed.gates[0].weigh[0].reduction = 4
    assert {parsed: "x"}[recipe(TABLE["cbam"][0])] == "x"
    for again in (copy.deepcopy(parsed), pickle.loads(pickle.dumps(parsed))):
        assert again == parsed
        assert hash(again) == hash(parsed)


GAP, SIGMOID = {"part": "gap"}, {"part": "sigmoid"}
MALFORMED = {
    "none": None,
    "a number": 3,
    "a list": [],
    "a word": "ab",
    "empty": {},
    "another key": {"gate": []},
    "no gates": {"gates": []},
    "gates none": {"gates": None},
    "gates a word": {"gates": "ab"},
    "a gate that is a list": {"gates": [[GAP, SIGMOID]]},
    "a gate without weigh": {"gates": [{"descriptors": [GAP]}]},
    "a gate without descriptors": {"gates": [{"weigh": [SIGMOID]}]},
    "no descriptor": {"gates": [{"descriptors": [], "weigh": [SIGMOID]}]},
    "nothing weighs": {"gates": [{"descriptors": [GAP], "weigh": []}]},
    "only sigmoids": {"gates": [{"descriptors": [SIGMOID, SIGMOID], "weigh": []}]},
    "a part that is a word": {"gates": [{"descriptors": ["gap"], "weigh": ["sigmoid"]}]},
    "a part that is a number": {"gates": [{"descriptors": [3], "weigh": [SIGMOID]}]},
    "a part without a name": {"gates": [{"descriptors": [{}], "weigh": [SIGMOID]}]},
    "unknown part": chain(("gapp", {}), ("sigmoid", {})),
    "a name that is a number": chain((3, {}), ("sigmoid", {})),
    "a name that is a list": chain(([], {}), ("sigmoid", {})),
    "unknown argument": chain(("gap", {"size": 3}), ("sigmoid", {})),
    "dunder argument": chain(("gap", {"__class__": 3}), ("sigmoid", {})),
    "bad value": chain(("gap", {}), ("dense", {"groups": -1}), ("sigmoid", {})),
    "value of another type": chain(("gap", {}), ("dense", {"groups": [1]}), ("sigmoid", {})),
    "value none": chain(("gap", {}), ("bottleneck", {"reduction": None}), ("sigmoid", {})),
    "value nan": chain(("gap", {}), ("sigmoid", {"scale": float("nan")})),
    "value infinite": chain(("gap", {}), ("sigmoid", {"scale": float("inf")})),
    "init a list": chain(("gap", {}), ("dense", {"init": ["ones"]}), ("sigmoid", {})),
    "missing sigmoid": chain(("gap", {}), ("dense", {})),
    "misfit": chain(("gap", {}), ("conv", {"kernel": 3}), ("sigmoid", {})),
    "part after sigmoid": chain(("gap", {}), ("sigmoid", {}), ("bn", {})),
    "unlike descriptors": chain(("gap", {}), ("conv", {}), ("sigmoid", {}), sum_of=2),
}


@pytest.mark.parametrize("data", MALFORMED.values(), ids=MALFORMED.keys())
def test_malformed_data_is_a_value_error(data):
    with pytest.raises(ValueError):
        Recipe.from_dict(data)
    with pytest.raises(ValueError):
        Recipe.from_json(json.dumps(data))


@pytest.mark.parametrize("text", ["", "{", "ab", "gap | sigmoid", '{"gates": [}', "[1, 2", "\0"])
def test_text_that_is_no_json_is_a_value_error(text):
    with pytest.raises(ValueError):
        Recipe.from_json(text)


@pytest.mark.parametrize(
    "data",
    [
        {"gates": [{"descriptors": [GAP], "weigh": [{"part": "bn"}] * 100_000 + [SIGMOID]}]},
        {"gates": [{"descriptors": [GAP], "weigh": [SIGMOID]}] * 100_000},
        {"gates": [{"descriptors": [GAP], "weigh": [{"part": "dense", "init": nested(9000)}]}]},
        {"gates": [{"descriptors": [{"part": nested(9000)}], "weigh": [SIGMOID]}]},
        {"gates": nested(9000)},
        {"version": nested(9000), "gates": []},
        {"gates": [{"descriptors": [GAP], "weigh": [{"part": "sigmoid", "scale": 10**5000}]}]},
        {"gates": [{"descriptors": [GAP], "weigh": [{"part": "dense", "groups": -(10**5000)}]}]},
        {"gates": [{"descriptors": [GAP], "weigh": [{"part": "x" * 10**6}]}]},
        {"gates": [{"descriptors": [GAP], "weigh": [{"part": "bn", "x" * 10**6: 3}]}]},
        {"gates": "x" * 10**6},
    ],
    ids=range(11),
)
def test_huge_and_deep_recipes_of_files_are_refused_in_short(data):
    with pytest.raises(ValueError) as caught:
        Recipe.from_dict(data)
    assert len(str(caught.value)) < 1000


def test_json_that_is_nested_deeply_is_no_recipe():
    with pytest.raises(ValueError, match="nested too deeply"):
        Recipe.from_json('{"gates": ' + "[" * 100_000)


pytestmark = pytest.mark.filterwarnings("error")


@pytest.mark.parametrize("scale", [2, 0.5])
@pytest.mark.parametrize("text", ["ab", "eca", "cbam", "gather(2) | sigmoid", "design_j"])
def test_scale_multiplies_the_gate(text, scale):
    text = str(recipe(text))
    x = torch.randn(3, 32, 5, 7)
    last = text.removesuffix("sigmoid") + f"sigmoid(scale={scale})"
    one, scaled = block(text, dtype=torch.float32), block(last, dtype=torch.float32)
    scaled.load_state_dict({**one.state_dict()})  # a plain dict does not tell the scale
    assert torch.equal(scaled(x), scale * one(x))  # a power of two: exact


@pytest.mark.parametrize(
    "text",
    [
        "gap | dense(groups=C) | bn(init=zeros) | sigmoid(scale=2)",
        "gap | dense(init=zeros) | sigmoid(scale=2)",
        "gap + gmp | bottleneck(init=zeros) | sigmoid(scale=2) ; "
        "channel_pool | conv2d(7) | bn(init=zeros) | sigmoid(scale=2)",
        "dwconv(7, init=zeros) | sigmoid(scale=2)",
        "gather(global, learned=true, init=zeros) | sigmoid(scale=2)",
    ],
)
def test_a_factor_that_starts_at_zero_is_the_identity(text):
    x = torch.randn(3, 32, 5, 7)
    m = block(text, dtype=torch.float32)
    assert torch.equal(m(x), x)
    assert torch.equal(m.eval()(x), x)


@pytest.mark.parametrize(
    ("text", "biases"),
    [
        ("gap | dense | bn | sigmoid", False),
        ("gap | dense(groups=C) | bn | sigmoid", False),
        ("gap | dense | dense | bn | sigmoid", False),
        ("gap | conv1d(3) | bn | sigmoid", False),
        ("gap + gmp | dense | bn | sigmoid", False),
        ("dwconv(7) | gap | dense(groups=C) | bn | sigmoid", False),
        ("conv(3) | bn | sigmoid", False),
        ("gap | dense(bias=true) | bn | sigmoid", True),
        ("gap | dense | sigmoid", True),
        ("gap | dense(bias=false) | sigmoid", False),
        ("gap | bottleneck(16) | bn | sigmoid", True),
        ("gap | bottleneck(16, bias=false) | bn | sigmoid", False),
        ("gap | dense | bottleneck(16, bias=false) | bn | sigmoid", True),
        ("dwconv(3) | gap | bottleneck(16, bias=false) | bn | sigmoid", True),
        ("dwconv(7) | gmp | sigmoid", True),
        ("gap | bn | dense | sigmoid", True),
    ],
)
def test_no_bias_where_a_bn_removes_it(text, biases):
    assert bool(kind_counts(block(text))[1]) == biases


@pytest.mark.parametrize("name", NAMES)
def test_reads_only_mean_is_true_of_the_gate(name):
    """The fast path's claim: such a gate sees nothing of a map but each channel's mean."""
    m = randomise(block(name)).eval()
    x = torch.randn(2, 32, 5, 7, dtype=torch.float64)
    flat = x.mean((2, 3), keepdim=True).expand_as(x)
    weights = [m(x)[..., 2, 3] / x[..., 2, 3], m(flat)[..., 2, 3] / flat[..., 2, 3]]
    assert torch.allclose(*weights) == all(gate.reads_only_mean for gate in m.recipe.gates)

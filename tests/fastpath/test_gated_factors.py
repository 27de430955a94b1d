"""SE and its like with a gate after them are one factor per channel, from one reduction."""

# N batch, C channels, H W space

from __future__ import annotations

import copy
import warnings

import pytest
import timm.layers
import torch
import torch.nn.functional as F
from support.folded_networks import IN_FLOAT64, MEANS, OneBranch, boosted, copied_and_exported
from support.gated_networks import difference
from support.mean_sites import C, EndsIn
from support.strictness import WARNINGS_ARE_ERRORS
from torch import nn
from torchvision.ops import SqueezeExcitation

import accuracy_booster as ab
from accuracy_booster.fastpath.gated_factors import GatedFactor
from accuracy_booster.ops import affine_reference
from accuracy_booster.surgery import attached

pytestmark = WARNINGS_ARE_ERRORS


def se(**options):
    return timm.layers.SEModule(C, rd_channels=4, **options)


def transformers_se():
    regnet = pytest.importorskip("transformers.models.regnet.modeling_regnet")
    return regnet.RegNetSELayer(C, 4)


FACTORS = {
    "timm's SE": se,
    "with a norm": lambda: se(norm_layer=nn.BatchNorm2d),
    "with another gate": lambda: se(gate_layer="hard_sigmoid"),
    "effective SE": lambda: timm.layers.EffectiveSEModule(C),
    "ECA": lambda: timm.layers.EcaModule(C),
    "torchvision's SE": lambda: SqueezeExcitation(C, 4),
    "transformers' SE": transformers_se,
}


def is_joined(folded):
    (place,) = ab.fast_path(folded).places
    joined = isinstance(folded.end, GatedFactor)
    assert place.fast
    assert place.extra_reduction != joined
    return joined


@pytest.mark.parametrize("name", FACTORS)
def test_an_attention_module_and_its_gate_are_one_factor(name, monkeypatch):
    model, x = boosted(EndsIn(FACTORS[name]()), where=["end"])
    folded = ab.fold(model, example=x[:1], verify=True)
    assert is_joined(folded)
    assert attached(folded) == {}
    passes, compute = [], affine_reference.affine

    def affine(z, mean, scale, shift, residual, relu):
        passes.append((residual is not None, relu))
        return compute(z, mean, scale, shift, residual, relu)

    monkeypatch.setattr(affine_reference, "affine", affine)
    for given in (x, torch.randn(1, 3, 9, 4, dtype=torch.float64)):
        assert difference(model, folded, given) < IN_FLOAT64
    assert passes == [(True, True)] * 2  # with the sum and the ReLU


@pytest.mark.parametrize("recipe", MEANS)
def test_every_recipe(recipe):
    model, x = boosted(EndsIn(se()), recipe, where=["end"])
    folded = ab.fold(model, example=x[:1])
    assert is_joined(folded)
    assert difference(model, folded, x) < IN_FLOAT64


class ReadsInput(EndsIn):
    """The map that the attention module reads is read elsewhere too."""

    def branch(self, x):
        y = OneBranch.branch(self, x)
        return self.end(y) + F.relu(y)


class Square(timm.layers.SEModule):
    """A module of one's own that computes something else."""

    def forward(self, x):
        return super().forward(x).square()


def hooked():
    module = se()
    module.fc1.register_forward_hook(lambda module, args, output: output + args[0].mean())
    return module


OTHERS = {
    "a maximum": lambda: EndsIn(se(add_maxpool=True)),
    "a class of one's own": lambda: EndsIn(Square(C, rd_channels=4)),
    "a hook inside": lambda: EndsIn(hooked()),
    "input read elsewhere": lambda: ReadsInput(se()),
}


@pytest.mark.parametrize("name", OTHERS)
def test_what_is_no_factor_keeps_its_gate(name):
    model, x = boosted(OTHERS[name](), where=["end"])
    folded = ab.fold(model, example=x[:1])
    assert not is_joined(folded)
    assert difference(model, folded, x) < IN_FLOAT64


def test_disabled_gates_stay_disabled():
    model, x = boosted(EndsIn(se()), where=["end"])
    with ab.disabled(model):
        folded, bare = ab.fold(model, example=x[:1]), model(x)
    assert not is_joined(folded)
    torch.testing.assert_close(folded(x), bare)


def test_a_hook_on_the_gate_is_called():
    model, x = boosted(EndsIn(se()), where=["end"])
    (gate,) = attached(model).values()
    gate.register_forward_hook(lambda module, args, output: 2 * output)
    folded = ab.fold(model, example=x[:1])
    assert not is_joined(folded)
    assert difference(model, folded, x) < IN_FLOAT64


def test_copies_compilers_and_exporters():
    model, x = boosted(EndsIn(se()), where=["end"])
    folded = ab.fold(model, example=x[:1])
    with torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for other in copied_and_exported(folded, x):
            torch.testing.assert_close(other(x), model(x), rtol=1e-10, atol=1e-11)


def test_16_bits():
    """Not much further from float64 than the network before folding."""
    model, x = boosted(EndsIn(se()), where=["end"])
    y, exact = torch.randn(2, C, 6, 6).half(), copy.deepcopy(model.end)
    half = ab.fold(copy.deepcopy(model).half(), example=x[:1].half()).end
    assert {p.dtype for p in half.gate.parameters()} == {torch.float32}
    with torch.no_grad():
        found, before = half(y), copy.deepcopy(model.end).half()(y)
        wanted = exact(y.double())
    assert found.dtype == torch.float16
    errors = [float((z - wanted).abs().max() / wanted.abs().max()) for z in (found, before)]
    assert errors[0] < max(2e-3, 2 * errors[1]), errors


def test_gradients_for_saliency_maps():
    model, x = boosted(EndsIn(se()), where=["end"])
    grads = []
    for other in (model, ab.fold(model, example=x[:1])):
        given = x.clone().requires_grad_()
        other(given).square().sum().backward()
        grads.append(given.grad)
    torch.testing.assert_close(*grads, rtol=1e-8, atol=1e-10)

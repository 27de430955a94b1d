"""The terms of a batch norm and their gradients, against autograd on their formulas in float64."""

# N batch, C channels, H W space

from __future__ import annotations

from itertools import product

import pytest
import torch
from support.strictness import WARNINGS_ARE_ERRORS

from accuracy_booster.ops.affine import GradientHandoff, affine
from accuracy_booster.ops.norm_terms import batch_norm_terms, weighted_terms

pytestmark = WARNINGS_ARE_ERRORS

EPS = 0.1
CLOSE = {"rtol": 1e-10, "atol": 1e-10}


def expected(z, weight, bias):
    """mean_nc, scale, descriptor, mean, var."""
    var, mean = torch.var_mean(z, (0, 2, 3), correction=0)
    mean_nc = z.mean((2, 3))
    scale = (1 if weight is None else weight) / torch.sqrt(var + EPS)
    return mean_nc, scale, (mean_nc - mean) * scale + (0 if bias is None else bias), mean, var


def leaves(weight=True, bias=True):
    z = (2 + torch.randn(4, 3, 5, 6, dtype=torch.float64)).requires_grad_()
    own = [torch.randn(3, dtype=torch.float64).requires_grad_() for _ in range(2)]
    return z, *(v if given else None for v, given in zip(own, (weight, bias), strict=True))


@pytest.mark.parametrize(("weight", "bias"), list(product([True, False], repeat=2)))
@pytest.mark.parametrize("used", [(0, 1, 2), (2,), (1,), (0,), (0, 2)], ids=str)
def test_the_terms_and_their_gradients(used, weight, bias):
    """Whichever of mean_nc, scale and descriptor are part of the loss."""
    given = leaves(weight, bias)
    inputs = [v for v in given if v is not None]
    found, wanted = batch_norm_terms(*given, EPS, None), expected(*given)
    for got, want in zip(found, wanted, strict=True):
        torch.testing.assert_close(got, want, **CLOSE)
    assert not found.mean.requires_grad
    assert not found.var.requires_grad
    grads = []
    for terms in (found, wanted):
        loss = sum(
            (terms[i] * torch.arange(terms[i].numel()).view_as(terms[i])).sum() for i in used
        )
        grads.append(torch.autograd.grad(loss, inputs, allow_unused=True, materialize_grads=True))
    for got, want in zip(*grads, strict=True):
        torch.testing.assert_close(got, want, **CLOSE)


def test_the_gradient_of_the_pointwise_pass_is_added():
    given = leaves()
    grads = []
    handoff = GradientHandoff()
    terms = batch_norm_terms(*given, EPS, handoff)
    scale = terms.scale.expand(4, -1)
    out = affine(given[0], terms.mean_nc, scale, terms.descriptor, relu=True, handoff=handoff)
    grads.append(torch.autograd.grad(out.square().sum(), given))
    assert handoff.take() == (None, None)
    z, weight, bias = given
    var, mean = torch.var_mean(z, (0, 2, 3), correction=0, keepdim=True)
    y = (z - mean) / torch.sqrt(var + EPS) * weight[:, None, None] + bias[:, None, None]
    torch.testing.assert_close(out, y.relu(), **CLOSE)
    grads.append(torch.autograd.grad(y.relu().square().sum(), given))
    torch.testing.assert_close(*grads, **CLOSE)


def test_16_bit_maps_have_terms_in_float32_and_weights_keep_their_type():
    z = torch.randn(4, 3, 5, 6).bfloat16().requires_grad_()
    weight = torch.ones(3, dtype=torch.bfloat16, requires_grad=True)
    bias = torch.zeros(3, requires_grad=True)
    terms = batch_norm_terms(z, weight, bias, EPS, None)
    assert {v.dtype for v in terms} == {torch.float32}
    (terms.descriptor.sum() + terms.scale.sum()).backward()
    assert [v.grad.dtype for v in (z, weight, bias)] == [torch.bfloat16] * 2 + [torch.float32]


def test_without_a_gradient_of_the_map_those_of_the_weights_are_there():
    z, weight, bias = leaves()
    terms = batch_norm_terms(z.detach(), weight, bias, EPS, None)
    found = torch.autograd.grad(terms.descriptor.square().sum(), (weight, bias))
    wanted = torch.autograd.grad(expected(z, weight, bias)[2].square().sum(), (weight, bias))
    torch.testing.assert_close(found, wanted, **CLOSE)


@pytest.mark.parametrize(("weight", "bias"), [(True, True), (False, True), (False, False)])
def test_the_gradient_of_the_gradient(weight, bias):
    given = [v for v in leaves(weight, bias) if v is not None]

    def terms(z, *own):
        own = iter(own)
        values = [next(own) if there else None for there in (weight, bias)]
        return batch_norm_terms(z, *values, EPS, None)[:3]

    def normalised(z, *own):
        """Norm and ReLU from one reduction, whose gradient also takes what the affine pass left."""
        handoff = GradientHandoff()
        own = iter(own)
        values = [next(own) if there else None for there in (weight, bias)]
        found = batch_norm_terms(z, *values, EPS, handoff)
        scale = found.scale.expand(len(z), -1)
        return affine(z, found.mean_nc, scale, found.descriptor, relu=True, handoff=handoff)

    assert torch.autograd.gradgradcheck(terms, given)
    assert torch.autograd.gradgradcheck(normalised, given)


def test_the_gradient_of_the_gradient_of_weighted_terms():
    values = [torch.randn(shape, dtype=torch.float64) for shape in [(3,), (2, 3), (2, 3)]]
    assert torch.autograd.gradgradcheck(weighted_terms, [v.requires_grad_() for v in values])

"""The two passes and their gradients through autograd, against torch's own in float64."""

# N batch, C channels, H W space

from __future__ import annotations

import pytest
import torch
from functorch.compile import make_boxed_func
from support.strictness import WARNINGS_ARE_ERRORS
from torch._dynamo.backends.common import aot_autograd

from accuracy_booster.ops.affine import (
    GradientHandoff,
    affine,
    current_backward_pass,
    needs_handoff,
    sample_moments,
)

pytestmark = WARNINGS_ARE_ERRORS

CLOSE = {"rtol": 1e-10, "atol": 1e-10}
SHAPE = (3, 5, 6, 7)


def terms(shape=SHAPE):
    """z, mean, scale, shift, residual, in float64."""
    n, c, *_ = shape
    z, residual = (torch.randn(shape, dtype=torch.float64) for _ in range(2))
    mean, scale, shift = (torch.randn(n, c, dtype=torch.float64) for _ in range(3))
    return z, mean, scale, shift, residual


@pytest.mark.parametrize("relu", [True, False])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32, torch.float64])
def test_the_pointwise_pass_and_its_gradient(dtype, relu):
    """Against ordinary torch in float64, whatever the map's type."""
    z, mean, scale, shift, residual = terms()
    z, residual = z.to(dtype), residual.to(dtype)
    values = dtype if dtype == torch.float64 else torch.float32
    mine = [z, mean.to(values), scale.to(values), shift.to(values), residual]
    mine = [v.clone().requires_grad_() for v in mine]
    truth = [v.detach().double().requires_grad_() for v in mine]
    out = affine(*mine[:4], residual=mine[4], relu=relu)
    z, mean, scale, shift, residual = truth
    exact = (z - mean[:, :, None, None]) * scale[:, :, None, None] + shift[:, :, None, None]
    exact = exact + residual
    exact = exact.relu() if relu else exact
    rounding = torch.finfo(dtype).eps
    assert out.dtype == dtype
    torch.testing.assert_close(out.double(), exact, rtol=2 * rounding, atol=4 * rounding)
    grad = torch.randn(out.shape).to(dtype)
    out.backward(grad)
    exact.backward(grad.double())
    for got, want in zip(mine, truth, strict=True):
        assert got.grad.dtype == got.dtype
        allowed = 8 * max(rounding if got.ndim == 4 else torch.finfo(values).eps, 2e-16)
        torch.testing.assert_close(
            got.grad.double(), want.grad, rtol=allowed, atol=allowed * float(want.grad.abs().max())
        )


def normalised(z, scale, handoff):
    """Norm, ReLU: both passes over z[N, C, H, W], of each sample and channel alone."""
    mean, var = sample_moments(z, handoff)
    return affine(z, mean, scale * torch.rsqrt(var + 0.1), mean, relu=True, handoff=handoff)


def expected(z, scale):
    var, mean = torch.var_mean(z, (2, 3), correction=0, keepdim=True)
    return ((z - mean) * scale[:, :, None, None] * torch.rsqrt(var + 0.1) + mean).relu()


def leaves():
    z, _, scale, *_ = terms()
    return z.requires_grad_(), scale.requires_grad_()


def test_the_reduction_adds_the_gradient_that_the_pointwise_pass_left():
    z, scale = leaves()
    weight = torch.randn(SHAPE, dtype=torch.float64)
    assert needs_handoff(z)
    found = torch.autograd.grad(
        (normalised(z, scale, GradientHandoff()) * weight).sum(), leaves_ := (z, scale)
    )
    wanted = torch.autograd.grad((expected(z, scale) * weight).sum(), leaves_)
    torch.testing.assert_close(found, wanted, **CLOSE)


def test_the_moments_alone_have_a_gradient():
    z, _ = leaves()
    mean, var = sample_moments(z, GradientHandoff())
    (found,) = torch.autograd.grad((mean.square() + var.square()).sum(), z)
    var, mean = torch.var_mean(z, (2, 3), correction=0)
    (wanted,) = torch.autograd.grad((mean.square() + var.square()).sum(), z)
    torch.testing.assert_close(found, wanted, **CLOSE)


def test_two_pointwise_passes_of_one_reduction():
    z, scale = leaves()
    handoff = GradientHandoff()
    mean, var = sample_moments(z, handoff)
    outs = [affine(z, mean, scale, var, relu=relu, handoff=handoff) for relu in (True, False)]
    (found,) = torch.autograd.grad(sum(y.square().sum() for y in outs), z)
    var, mean = torch.var_mean(z, (2, 3), correction=0, keepdim=True)
    y = (z - mean) * scale[:, :, None, None] + var
    (wanted,) = torch.autograd.grad(y.relu().square().sum() + y.square().sum(), z)
    torch.testing.assert_close(found, wanted, **CLOSE)


def test_what_a_backward_pass_for_the_scale_alone_left_is_dropped():
    z, scale = leaves()
    total = normalised(z, scale, GradientHandoff()).square().sum()
    torch.autograd.grad(total, scale, retain_graph=True)
    found = torch.autograd.grad(total, (z, scale))
    wanted = torch.autograd.grad(expected(z, scale).square().sum(), (z, scale))
    torch.testing.assert_close(found, wanted, **CLOSE)


def test_a_handoff_keeps_nothing_after_it_was_taken():
    handoff = GradientHandoff()
    assert handoff.take() == (None, None)
    handoff.put(torch.ones(1), torch.ones(1))
    grad, scale = handoff.take()
    assert grad is not None
    assert scale is not None
    assert handoff.take() == (None, None)


def test_the_number_of_the_backward_pass():
    seen = []
    x = torch.ones(2, requires_grad=True)
    y = x * 2
    y.register_hook(lambda grad: seen.append(current_backward_pass()))
    for _ in range(2):
        y.sum().backward(retain_graph=True)
    assert current_backward_pass() == -1
    assert -1 not in seen
    assert seen[0] != seen[1]


@pytest.mark.parametrize("how", ["compiled", "torch.func"])
def test_torchs_own_operations_where_they_are_needed(how):
    z, scale = (v.detach() for v in leaves())
    used = []

    def loss(z, scale):
        handoff = GradientHandoff() if needs_handoff(z) else None
        used.append(handoff)
        return normalised(z, scale, handoff).square().sum()

    if how == "compiled":
        z.requires_grad_()
        compiled = torch.compile(loss, backend="aot_eager", fullgraph=True)
        (found,) = torch.autograd.grad(compiled(z, scale), z)
    else:
        found = torch.func.grad(loss)(z, scale)
    assert used[0] is None
    leaf = z.detach().requires_grad_()
    (wanted,) = torch.autograd.grad(expected(leaf, scale).square().sum(), leaf)
    torch.testing.assert_close(found, wanted, **CLOSE)


@pytest.mark.parametrize("relu", [True, False])
@pytest.mark.parametrize("absent", [(), (1, 3, 4)], ids=["all terms", "scale alone"])
def test_the_gradient_of_the_gradient_of_the_pointwise_pass(absent, relu):
    given = terms((2, 2, 2, 3))
    leaves_ = [v.requires_grad_() for i, v in enumerate(given) if i not in absent]

    def passed(*values):
        rest = iter(values)
        args = [None if i in absent else next(rest) for i in range(5)]
        return affine(*args[:4], residual=args[4], relu=relu)

    assert torch.autograd.gradgradcheck(passed, leaves_)


def test_the_gradient_of_the_gradient_of_both_passes():
    """As `normalised` has them, and of the moments alone; one gradient before changes nothing."""
    z, _, scale, *_ = terms((2, 2, 2, 3))
    given = z.requires_grad_(), scale.requires_grad_()
    assert torch.autograd.gradgradcheck(lambda z, s: normalised(z, s, GradientHandoff()), given)
    assert torch.autograd.gradgradcheck(lambda z: sample_moments(z, GradientHandoff()), z)
    found = []
    for loss in (normalised(z, scale, GradientHandoff()), expected(z, scale)):
        loss = loss.square().sum()
        torch.autograd.grad(loss, scale, retain_graph=True)
        grads = torch.autograd.grad(loss, given, create_graph=True)
        found.append(torch.autograd.grad(sum(g.square().sum() for g in grads), given))
    torch.testing.assert_close(*found, **CLOSE)


def test_without_gradients_there_is_no_handoff():
    z, _ = leaves()
    with torch.no_grad():
        assert not needs_handoff(z)
    assert not needs_handoff(z.detach())


def test_a_compiled_gradient_takes_two_sums_over_the_map():
    """Those of g and of g (z - mean); the gradient of the mean is no third one. All are right."""
    given = [v.requires_grad_() for v in terms()]
    backward = []

    def keep(graph, inputs):
        backward.append(graph)
        return make_boxed_func(graph.forward)

    def loss(*given):
        *values, residual = given
        return affine(*values, residual=residual, relu=True).square().sum()

    by = aot_autograd(fw_compiler=lambda g, inputs: make_boxed_func(g.forward), bw_compiler=keep)
    found = torch.autograd.grad(torch.compile(loss, backend=by, fullgraph=True)(*given), given)
    torch.testing.assert_close(found, torch.autograd.grad(loss(*given), given), **CLOSE)
    sums = [
        node
        for node in backward[0].graph.nodes
        if node.target is torch.ops.aten.sum.dim_IntList and node.args[0].meta["val"].shape == SHAPE
    ]
    assert len(sums) == 2

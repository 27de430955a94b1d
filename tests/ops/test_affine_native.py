"""The C++ gives what the reference gives in float64, over shapes, layouts and threads."""

# N batch, C channels, H W space

from __future__ import annotations

from itertools import product

import pytest
import torch
from support.strictness import WARNINGS_ARE_ERRORS

from accuracy_booster.ops import affine_native, affine_reference, native

pytestmark = [
    *WARNINGS_ARE_ERRORS,
    pytest.mark.skipif(native.library() is None, reason=native.why_no_library() or "there is one"),
]

SHAPES = [
    (2, 3, 7, 5),
    (1, 1, 1, 1),
    (3, 70, 1, 1),  # no space, and more channels than a vector has
    (2, 70, 7, 7),
    (4, 300, 9, 3),  # a row of channels_last is longer than what is taken together
    (1, 40, 33, 41),  # one sample for several threads, several chunks of positions
    (2, 5, 11),
    (2, 5, 3, 4, 5),
]
LAST = {4: torch.channels_last, 5: torch.channels_last_3d}
shapes = pytest.mark.parametrize("shape", SHAPES, ids=lambda shape: "x".join(map(str, shape)))
layouts = pytest.mark.parametrize("last", [False, True], ids=["nchw", "channels_last"])
dtypes = pytest.mark.parametrize("dtype", affine_native.DTYPES, ids=affine_native.DTYPES.get)
ROUNDING = {torch.float32: 2e-6, torch.float64: 1e-14}


def feature_map(shape, last=False):
    """Normal values of mean 1 and standard deviation 2, in float64."""
    x = 2 * torch.randn(shape, dtype=torch.float64) + 1
    return x.contiguous(memory_format=LAST[x.ndim]) if last and x.ndim in LAST else x


def values(*shape):
    return torch.randn(shape, dtype=torch.float64)


def compare(name, dtype, *arguments):
    """Run a function of the C++ in `dtype`, and compare it with the reference in float64."""
    given = [a.to(dtype) if isinstance(a, torch.Tensor) else a for a in arguments]
    exact = [a.double() if isinstance(a, torch.Tensor) else a for a in given]
    found = getattr(affine_native, name)(*given)
    expected = getattr(affine_reference, name)(*exact)
    if isinstance(found, torch.Tensor):
        found, expected = (found,), (expected,)
    for got, want in zip(found, expected, strict=True):
        assert got.shape == want.shape
        assert got.dtype == dtype
        error = ROUNDING[dtype] * max(1.0, want.abs().max().item()) * 8
        torch.testing.assert_close(got.double(), want, rtol=0, atol=error)
    return found


def every_call(shape, last):
    """(function, arguments) with every optional term there and left out."""
    z, grad, out = (feature_map(shape, last) for _ in range(3))
    a, b, c, d = (values(*shape[:2]) for _ in range(4))
    weight, bias = values(shape[1]), values(shape[1])
    yield "sample_moments", (z,)
    for mean, shift, residual, relu in product((a, None), (b, None), (grad, None), (True, False)):
        yield "affine", (z, mean, c, shift, residual, relu)
    for y, mean in product((out, None), (a, None)):
        yield "affine_grads", (grad, y, z, mean)
    for g in (grad, None):
        yield "input_grad", (g, a, z, b, c, d)
    for one, other in product((weight, None), (bias, None)):
        yield "norm_terms", (a, b.square(), one, other, 1e-3)
    for one, other in product((a, None), (weight, None)):
        terms = (bias, weight.square(), weight)
        yield "norm_terms_grads", (one, other, b, c, *terms, 35)


@dtypes
@layouts
@shapes
def test_every_function_with_and_without_its_terms(shape, last, dtype):
    for name, arguments in every_call(shape, last):
        compare(name, dtype, *arguments)


@layouts
@pytest.mark.parametrize("threads", [2, 5])
def test_several_threads_share_a_batch_and_a_single_sample(threads, last):
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(threads)
        for shape in ((7, 19, 9, 5), (1, 100, 33, 41)):
            for name, arguments in every_call(shape, last):
                compare(name, torch.float32, *arguments)
    finally:
        torch.set_num_threads(before)


@layouts
def test_results_have_the_layout_of_the_map(last):
    shape = (2, 18, 5, 3)
    z, grad, out = feature_map(shape, last), feature_map(shape, not last), feature_map(shape)
    a, b, c = (values(2, 18) for _ in range(3))
    more = feature_map(shape).permute(0, 1, 3, 2).contiguous().permute(0, 1, 3, 2)
    (y,) = compare("affine", torch.float32, z, a, b, c, more, True)
    masked, *_ = compare("affine_grads", torch.float32, grad, out, z, a)
    (d_z,) = compare("input_grad", torch.float32, grad, a, z, a, b, c)
    assert y.stride() == masked.stride() == d_z.stride() == z.stride()


@layouts
def test_maps_with_gaps_and_expanded_values(last):
    wide = feature_map((2, 9, 8, 7), last)
    for z in (wide[:, 2:6], wide[:, :4, ::2, 1:], wide[:, :4, :1, :1], wide[::2, 5:]):
        a = values(1, 4).expand(len(z), -1)
        compare("sample_moments", torch.float32, z)
        compare("affine", torch.float32, z, None, a, None, z, True)
        compare("affine_grads", torch.float32, z.new_ones(()).expand_as(z), z, z, a)
        compare("input_grad", torch.float32, z, a, z, a, a, a)


@layouts
def test_moments_far_from_zero(last):
    """mean 1000, spread 1, in float32: no difference of large squares."""
    z = 1000 + torch.randn(2, 18, 59, 61, dtype=torch.float64)
    z = z.float().contiguous(memory_format=LAST[4] if last else torch.contiguous_format)
    mean, var = affine_native.sample_moments(z)
    want_mean, want_var = affine_reference.sample_moments(z.double())
    torch.testing.assert_close(mean.double(), want_mean, rtol=3e-7, atol=0)
    torch.testing.assert_close(var.double(), want_var, rtol=1e-4, atol=0)


def test_nan_and_infinity_go_where_torch_lets_them_go():
    z = torch.tensor([float("nan"), float("inf"), -float("inf"), 1.0]).view(1, 1, 2, 2)
    one = torch.ones(1, 1)
    y = affine_native.affine(z, None, one, None, None, True)
    torch.testing.assert_close(y, z.relu(), equal_nan=True)
    grad = torch.full_like(z, 2.0)
    masked, *_ = affine_native.affine_grads(grad, y, torch.ones_like(z), None)
    torch.testing.assert_close(masked, torch.tensor([2.0, 2.0, 0.0, 2.0]).view_as(z))


def test_what_the_cpp_does_not_take_goes_to_the_reference():
    z = torch.randn(2, 3, 4, 5)
    one = torch.ones(2, 3)
    for other in (z.half(), z[:0]):
        mine, theirs = (
            module.affine(other, None, one[: len(other)], None, None, False)
            for module in (affine_native, affine_reference)
        )
        assert torch.equal(mine, theirs)
    mixed = affine_native.affine(z, None, one, None, z.double(), False)
    assert torch.equal(mixed, affine_reference.affine(z, None, one, None, z.double(), False))

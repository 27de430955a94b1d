"""The kernels' terms of a batch norm against the reference in float64; they compile for a GPU."""

# N batch, C channels

from __future__ import annotations

import inspect

import pytest
import torch
from support.triton_kernels import (
    DEVICE,
    RUNS,
    assert_interpreted_tests_pass,
    double,
    flags,
    values,
)

from accuracy_booster.ops import affine_reference

if RUNS:
    from accuracy_booster.ops import affine_triton

if not RUNS:

    def test_interpreted_in_a_process_of_its_own():
        assert_interpreted_tests_pass(__file__, least=81)

    @pytest.mark.parametrize("optional", [True, False])
    @pytest.mark.parametrize("name", ["norm_terms", "norm_terms_grads"])
    def test_compiles_for_a_gpu(name: str, optional: bool):
        from triton import compile
        from triton.backends.compiler import GPUTarget
        from triton.compiler import ASTSource

        from accuracy_booster.ops import affine_triton, norm_kernels

        if "constexprs" not in inspect.signature(ASTSource).parameters:
            pytest.skip("this Triton compiles ahead of time in another way")
        kernel = getattr(norm_kernels, f"{name}_kernel")
        fixed = {"TILE_N": affine_triton.TILE_N, "TILE_C": affine_triton.TILE_C}
        if not optional:
            fixed |= dict.fromkeys(["weight", "bias", "d_mean_nc", "d_scale"])
        types = {"N": "i32", "C": "i32", "eps": "fp32", "area": "fp32"}
        types |= dict.fromkeys(fixed, "constexpr")
        source = ASTSource(
            kernel,
            {argument: types.get(argument, "*fp32") for argument in kernel.arg_names},
            constexprs={k: v for k, v in fixed.items() if k in kernel.arg_names},
        )
        options = {"enable_fp_fusion": True}
        assert "st.global" in compile(source, GPUTarget("cuda", 90, 32), options).asm["ptx"]


class TestKernels:
    __test__ = RUNS

    @flags("weight", "bias", "d_scale", "d_mean")
    @pytest.mark.parametrize(("n", "c"), [(1, 1), (2, 3), (33, 70), (5, 32), (64, 33)])
    def test_the_terms_and_their_gradients(self, n, c, weight, bias, d_scale, d_mean):
        """A tile has 32 samples and 32 channels."""
        mean_nc, *more = (values((n, c), seed) for seed in range(4))
        own = [values((1, c), seed)[0] for seed in (4, 5, 6)]
        weight, bias, d_scale = (
            v if given else None for v, given in zip(own, (weight, bias, d_scale), strict=True)
        )
        given = mean_nc, more[0].square(), weight, bias, 1e-5
        found = affine_triton.norm_terms(*given)
        expected = affine_reference.norm_terms(*double(given))
        for got, want in zip(found, expected, strict=True):
            error = 1e-5 * want.abs().max().item()
            torch.testing.assert_close(got.double(), want, rtol=1e-5, atol=error)
        mean, _, inv_std, scale, _ = (v.float() for v in expected)
        given = more[1] if d_mean else None, d_scale, more[2], mean_nc, mean, inv_std, scale, 49
        found = affine_triton.norm_terms_grads(*given)
        expected = affine_reference.norm_terms_grads(*double(given))
        for got, want in zip(found, expected, strict=True):
            error = 1e-5 * max(1.0, want.abs().max().item())
            torch.testing.assert_close(got.double(), want, rtol=1e-5, atol=error)

    def test_empty_values_launch_nothing(self, monkeypatch):
        monkeypatch.setattr(affine_triton, "_launch_norm_terms", lambda *_: pytest.fail("launched"))
        empty, channels = torch.ones(2, 0, device=DEVICE), torch.ones(0, device=DEVICE)
        found = affine_triton.norm_terms(empty, empty, None, None, 1e-5)
        assert [v.shape for v in found] == [channels.shape] * 4 + [empty.shape]
        found = affine_triton.norm_terms_grads(None, None, empty, empty, *[channels] * 3, 4)
        assert [v.shape for v in found] == [channels.shape] * 2 + [empty.shape] * 2
